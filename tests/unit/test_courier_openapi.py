"""docs/openapi.yaml against what the courier really asks, and what the tests' own control plane really answers."""

import json
import re
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import yaml

from agent.courier import ndjson
from agent.courier.https import Https
from agent.courier.settings import load_settings
from agent.courier.transport import Cursor, Record
from agent.errors import CourierError
from tests.courier_peer import Peer
from tests.unit.courier_kit import RECORDING, ROOT, URI, Ground, ground

__all__ = ["ground"]
SPEC: dict[str, Any] = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())


def resolved(node: Any) -> Any:
    """The same with every reference in place."""
    if isinstance(node, dict):
        if "$ref" in node:
            found: Any = SPEC
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            return resolved(found)
        return {key: resolved(value) for key, value in node.items()}
    return [resolved(item) for item in node] if isinstance(node, list) else node


def operation(method: str, path: str) -> dict[str, Any]:
    for template, item in SPEC["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            found: dict[str, Any] = resolved(
                {**item[method], "parameters": [*item.get("parameters", []), *item[method].get("parameters", [])]}
            )
            return found
    raise AssertionError(f"{method} {path} is not in openapi.yaml")


def test_every_request_of_the_courier_stands_in_the_description(ground: Ground) -> None:
    with Peer() as peer:
        peer.enrol(ground.places.folder, URI)
        ground.configure(f"url: {peer.url}\n")
        made = Https(load_settings(ground.places.settings), ground.places, lambda _: None)
        peer.push(b"a")
        peer.push(b"b")
        next(made.receive(Cursor(), threading.Event()))
        next(made.receive(Cursor("epoch-1", 1), threading.Event()))
        record = Record("uid-1", "event", {"a": 1})
        made.send([record])
        made.recording_size(RECORDING)
        made.send_recording(RECORDING, 0, b"x", complete=False)
        made.send_recording(RECORDING, 7, b"x", complete=True)
        with pytest.raises(CourierError):
            made.renew("no request")
        peer.faults["stream"] = "status:404"
        made._stream_again = 0.0
        next(made.receive(Cursor("epoch-1", 1), threading.Event()))
        made.close()
        asked = list(peer.requests)
    seen = set()
    for method, target, headers in asked:
        url = urlsplit(target)
        found = operation(method.lower(), url.path)
        seen.add(found["operationId"])
        known = {(parameter["in"], parameter["name"]): parameter for parameter in found["parameters"]}
        for name, values in parse_qs(url.query).items():
            value: Any = {"true": True}.get(values[0], values[0])
            jsonschema.validate(int(value) if str(value).isdigit() else value, known["query", name]["schema"])
        if "Last-Event-ID" in headers:
            jsonschema.validate(headers["Last-Event-ID"], known["header", "Last-Event-ID"]["schema"])
        if "requestBody" in found:
            assert headers["Content-Type"] in found["requestBody"]["content"]
    assert seen == {"stream", "tokens", "records", "recordingSize", "recordingPiece", "renew"}
    schema = operation("post", "/v1/host/records")["requestBody"]["content"]["application/x-ndjson"]["schema"]
    jsonschema.validate(json.loads(ndjson.line(record)), schema)


def test_every_reference_and_example_of_the_protocol_page_holds() -> None:
    resolved(SPEC)
    page = (ROOT / "docs/PROTOCOL.md").read_text().split("## Over the network")[1]
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)[:2]]
    for block, name in zip(blocks, ("Enrolment", "Enrolled"), strict=True):
        jsonschema.validate(block, resolved(SPEC["components"]["schemas"][name]))
    assert {path for path in SPEC["paths"] if path.replace("{id}", "ID") not in page} == set()
