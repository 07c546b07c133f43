#!/bin/sh
# What Tidegate needs on a host besides its files: accounts, folders, tidegate-shell's interpreter and its line in /etc/shells, and
# byte code, which the daemon's unit could not write. Run by packaging/install.sh and by the packages; may be run again.
# `setup [ROOT]`: all of it. `setup --interpreter`: only what hangs on the host's python; exit status 10 when that was exchanged.
# `setup --byte-code`: for a package that adds modules. `setup --files`: the admin's files in this version's form; never fails.
set -eu
umask 022

home=/usr/lib/tidegate
shell=$home/tidegate-shell

# A copy that nobody may read: the kernel then lets nobody trace who runs it (agent/host/recorder.py). By size and time it is known
# to be of today's python; so tidegated sees it too, which makes it anew at its start and whenever the host's python changes.
interpreter() {
  python=$root/usr/bin/$(basename "$(readlink -f "$root/usr/bin/python3")")
  copy=$root$home/tenant-python
  if [ "$(stat -c '%s %Y 711' "$python")" = "$(stat -c '%s %Y %a' "$copy" 2>/dev/null)" ]; then return 0; fi
  cp --preserve=timestamps "$python" "$copy.new"
  chmod 0711 "$copy.new"
  sync "$copy.new"
  mv -f "$copy.new" "$copy"
  exchanged=10
}

byte_code() {
  find "$root$home" -name __pycache__ -prune -exec rm -rf {} +
  if [ -z "$root" ]; then
    python3 -I -m compileall -q "$home"
  else
    # Of another root's python; where that can't be run here, its host makes up for it.
    chroot "$root" /usr/bin/python3 -I -m compileall -q "$home" 2>/dev/null || :
  fi
}

account() { # name home
  getent passwd "$1" >/dev/null || useradd --system --user-group --no-create-home --home-dir "$2" --shell /usr/sbin/nologin "$1"
}

accounts() {
  # For another root only systemd can make them.
  if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers ${root:+--root="$root"} tidegate.conf
  elif [ -z "$root" ]; then
    for group in tidegate tidegate-tenants; do
      getent group "$group" >/dev/null || groupadd --system "$group"
    done
    account tidegate-recorder /var/lib/tidegate/sessions
    account tidegate-courier /var/lib/tidegate/courier
  fi
}

folders() {
  if [ -z "$root" ] && command -v systemd-tmpfiles >/dev/null; then
    systemd-tmpfiles --create tidegate.conf
  fi
}

# tidegate-shell is the tenants' login shell; sshd and chsh look for it in /etc/shells.
listed() {
  [ -e "$root/etc/shells" ] && ! grep -qx "$shell" "$root/etc/shells" || return 0
  if [ -z "$root" ] && command -v add-shell >/dev/null; then
    add-shell "$shell"
  else
    echo "$shell" >>"$root/etc/shells"
  fi
}

# Earlier forms are read as well, so nothing hangs on it: what is bad is told, and stays. Run once the new daemon runs, since the one
# before may not know the new form.
admins_files() {
  if said=$(env -u TIDEGATE_CONFIG /usr/bin/tidegate config migrate 2>&1); then
    case $said in
      "every file is in today's form") ;;
      *) printf '%s\n' "$said" | sed 's/^/tidegate: /' ;;
    esac
  else
    echo "tidegate: the files in /etc/tidegate stay in the form that they have, since one of them can't be read:"
    printf '%s\n' "$said"
    echo "tidegate: once it is mended: tidegate config migrate"
  fi
}

exchanged=0
if [ "${1:-}" = --files ]; then
  admins_files
  exit 0
fi
if [ "${1:-}" = --interpreter ]; then
  root=
  interpreter
  [ "$exchanged" = 0 ] || byte_code
  exit "$exchanged"
fi
if [ "${1:-}" = --byte-code ]; then
  root=
  byte_code
  exit
fi
root=${1:-}
accounts
folders
interpreter
byte_code
listed
