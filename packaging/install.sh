#!/bin/sh
# The one list of what goes where. `install.sh [DESTDIR]` puts every part's files under a root folder and sets them up
# (packaging/setup.sh); without DESTDIR on this host. It may be run again, and starts and enables nothing. Also used for test hosts.
# `install.sh --files PART DESTDIR` only copies the files of one package: so packaging/build.py learns what is in it.
set -eu
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
parts='tidegate tidegate-courier tidegate-courier-nats'

put() { # mode source target
  install -D -m "$1" "$here/$2" "$root$3"
}

put_zipped() { # source target
  install -d -m 0755 "$root$(dirname "$2")"
  gzip -9nc "$here/$1" >"$root$2"
  chmod 0644 "$root$2"
}

put_page() { # a manual page's file
  put_zipped "docs/man/$1" "/usr/share/man/man${1##*.}/$1.gz"
}

folder() { # mode path...
  mode=$1
  shift
  for path; do install -d -m "$mode" "$root$path"; done
}

put_code() { # what find(1) is to look at, from the repository's folder on
  (cd "$here" && find "$@" -name __pycache__ -prune -o -type f -print) | while read -r file; do
    put 0644 "$file" "/usr/lib/tidegate/$file"
  done
}

# The packages live in a private folder and run with `python3 -I`: nothing of a user's or site's Python path gets in.
files_tidegate() {
  put_code agent enforcers -path agent/courier -prune -o -path agent/cli/enroll.py -prune -o -path agent/sessions/shell.py -prune -o
  put 0755 packaging/bin/tidegate /usr/bin/tidegate
  put 0755 packaging/bin/tidegated /usr/sbin/tidegated
  put 0755 packaging/bin/tidegate-recorder /usr/lib/tidegate/tidegate-recorder
  put 0755 packaging/bin/leave /usr/lib/tidegate/leave
  put 0755 packaging/setup.sh /usr/lib/tidegate/setup
  # tidegate-shell runs as the tenant, who must not trace it: by a copy of python that nobody may read (packaging/setup.sh).
  shell=$root/usr/lib/tidegate/tidegate-shell
  { echo '#!/usr/lib/tidegate/tenant-python -ISE'; sed 1d "$here/agent/sessions/shell.py"; } >"$shell.new"
  chmod 0755 "$shell.new"
  mv -f "$shell.new" "$shell"
  put 0644 systemd/tidegated.service /usr/lib/systemd/system/tidegated.service
  put 0644 systemd/tidegate-recorder.service /usr/lib/systemd/system/tidegate-recorder.service
  put 0644 systemd/tidegate-boot.service /usr/lib/systemd/system/tidegate-boot.service
  # Wanted by every boot, however tidegated itself stands: without anything that it has opened it does nothing.
  folder 0755 /usr/lib/systemd/system/multi-user.target.wants
  ln -sfn ../tidegate-boot.service "$root/usr/lib/systemd/system/multi-user.target.wants/tidegate-boot.service"
  put 0644 packaging/sysusers.conf /usr/lib/sysusers.d/tidegate.conf
  put 0644 packaging/tmpfiles.conf /usr/lib/tmpfiles.d/tidegate.conf
  folder 0755 /etc/tidegate /etc/tidegate/conf.d /etc/tidegate/policy.d /etc/tidegate/trust.d
  [ -e "$root/etc/tidegate/tidegate.yaml" ] || put 0644 packaging/tidegate.yaml /etc/tidegate/tidegate.yaml
  for page in tidegate.1 tidegate-policy.5 tidegate.yaml.5 tidegate-recorder.8 tidegated.8; do put_page "$page"; done
  put 0644 packaging/completions/tidegate.bash /usr/share/bash-completion/completions/tidegate
  put 0644 packaging/completions/tidegate.zsh /usr/share/zsh/vendor-completions/_tidegate
  put 0644 packaging/completions/tidegate.fish /usr/share/fish/vendor_completions.d/tidegate.fish
  for page in "$here"/docs/*.md "$here"/docs/decisions/*.md "$here"/docs/performance/*.svg "$here"/docs/openapi.yaml; do
    put 0644 "docs/${page#"$here"/docs/}" "/usr/share/doc/tidegate/${page#"$here"/docs/}"
  done
  for policy in "$here"/examples/policy.d/*.yaml; do
    put 0644 "examples/policy.d/$(basename "$policy")" "/usr/share/doc/tidegate/examples/policy.d/$(basename "$policy")"
  done
}

# The part with a network, and the command that only it needs.
files_tidegate_courier() {
  put_code agent/courier agent/cli/enroll.py -path 'agent/courier/nats.py' -prune -o -path 'agent/courier/natslink.py' -prune -o
  put 0755 packaging/bin/tidegate-courier /usr/lib/tidegate/tidegate-courier
  put 0644 systemd/tidegate-courier.service /usr/lib/systemd/system/tidegate-courier.service
  put_page tidegate-courier.8
}

# nats-py itself is added by packaging/build.py: Debian has no package of it.
files_tidegate_courier_nats() {
  put_code agent/courier/nats.py agent/courier/natslink.py
}

files() { # part
  "files_$(printf %s "$1" | tr - _)"
}

if [ "${1:-}" = --files ]; then
  root=$3
  files "$2"
  exit
fi
root=${1:-}
for part in $parts; do files "$part"; done
"$root/usr/lib/tidegate/setup" "$root"
