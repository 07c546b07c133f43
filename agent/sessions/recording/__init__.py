"""The recording format (docs/RECORDINGS.md): written by the recorder, read by everything else; the standard library is enough."""

from agent.sessions.recording.format import SEAL_TYP, Block, Damage, Frame, Json, Kind, Seal
from agent.sessions.recording.reader import Records, read
from agent.sessions.recording.recovery import recover
from agent.sessions.recording.verify import Problem, SealKey, Verdict, verify
from agent.sessions.recording.writer import Writer

__all__ = [
    "SEAL_TYP",
    "Block",
    "Damage",
    "Frame",
    "Json",
    "Kind",
    "Problem",
    "Records",
    "Seal",
    "SealKey",
    "Verdict",
    "Writer",
    "read",
    "recover",
    "verify",
]
