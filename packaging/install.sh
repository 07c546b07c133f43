#!/bin/sh
# Puts Tidegate's files under a root folder, as the packages will: `install.sh [DESTDIR]`. Starts and enables nothing.
# Without DESTDIR it installs on this host, and may be run again. Also used for test hosts and by the package build.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
root=${1:-}

put() { # mode source target
  install -D -m "$1" "$here/$2" "$root$3"
}

# The package lives in a private folder and runs with `python3 -I`: nothing of a user's or site's Python path gets in.
install -d -m 0755 "$root/usr/lib/tidegate"
for package in agent enforcers; do
  (cd "$here" && find "$package" -name __pycache__ -prune -o -type f -print) | while read -r file; do
    put 0644 "$file" "/usr/lib/tidegate/$file"
  done
done
put 0755 packaging/bin/tidegate /usr/bin/tidegate
put 0755 packaging/bin/tidegated /usr/sbin/tidegated
put 0755 packaging/bin/tidegate-recorder /usr/lib/tidegate/tidegate-recorder
put 0755 packaging/bin/tidegate-courier /usr/lib/tidegate/tidegate-courier
# tidegate-shell runs as the tenant, who must not trace it: by a copy of python that nobody may read (agent/host/recorder.py).
shell=$root/usr/lib/tidegate/tidegate-shell
{ echo '#!/usr/lib/tidegate/tenant-python -ISE'; sed 1d "$here/agent/sessions/shell.py"; } >"$shell.new"
chmod 0755 "$shell.new"
mv -f "$shell.new" "$shell"
python=$root/usr/bin/$(basename "$(readlink -f "$root/usr/bin/python3")")
cp --preserve=timestamps "$python" "$root/usr/lib/tidegate/tenant-python.new"
chmod 0711 "$root/usr/lib/tidegate/tenant-python.new"
mv -f "$root/usr/lib/tidegate/tenant-python.new" "$root/usr/lib/tidegate/tenant-python"
put 0644 systemd/tidegated.service /usr/lib/systemd/system/tidegated.service
put 0644 systemd/tidegate-recorder.service /usr/lib/systemd/system/tidegate-recorder.service
put 0644 systemd/tidegate-courier.service /usr/lib/systemd/system/tidegate-courier.service
put 0644 systemd/tidegate-boot.service /usr/lib/systemd/system/tidegate-boot.service
# Wanted by every boot, however tidegated itself stands: without anything that it has opened it does nothing.
install -d -m 0755 "$root/usr/lib/systemd/system/multi-user.target.wants"
ln -sfn ../tidegate-boot.service "$root/usr/lib/systemd/system/multi-user.target.wants/tidegate-boot.service"
put 0644 packaging/sysusers.conf /usr/lib/sysusers.d/tidegate.conf
put 0644 packaging/tmpfiles.conf /usr/lib/tmpfiles.d/tidegate.conf

# The two groups, as the package's sysusers.d does at installation. For another root only systemd can make them.
if command -v systemd-sysusers >/dev/null; then
  systemd-sysusers ${root:+--root="$root"} tidegate.conf
elif [ -z "$root" ]; then
  for group in tidegate tidegate-tenants; do
    getent group "$group" >/dev/null || groupadd --system "$group"
  done
fi

install -d -m 0755 "$root/etc/tidegate" "$root/etc/tidegate/conf.d" "$root/etc/tidegate/policy.d" "$root/etc/tidegate/trust.d"
[ -e "$root/etc/tidegate/tidegate.yaml" ] || put 0644 packaging/tidegate.yaml /etc/tidegate/tidegate.yaml

# tidegate-shell is the tenants' login shell; sshd and chsh look for it in /etc/shells.
if [ -e "$root/etc/shells" ] && ! grep -qx /usr/lib/tidegate/tidegate-shell "$root/etc/shells"; then
  echo /usr/lib/tidegate/tidegate-shell >>"$root/etc/shells"
fi
