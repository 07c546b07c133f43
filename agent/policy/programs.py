"""Data of :mod:`agent.policy.privileged`: programs that can run others, or write what root later trusts. Names only, no paths."""

_GROUPED = {
    "is a shell": """
        ash bash bsd-csh busybox csh dash elvish fish ksh mksh nu pdksh posh pwsh rbash rksh sash sh sh.distrib tcsh
        tidegate-shell toybox xonsh yash zsh
    """,
    "is an interpreter, which runs any code": """
        awk bc bpython bun clojure csi dc deno dotnet elixir eqn erl exiftool expect gawk gforth ghc ghci gnuplot groff
        groovy guile iex ipython irb java jcmd jdb jjs jrunscript jshell julia kotlin lua luajit m4 mawk mono nawk node
        nodejs nroff ocaml octave original-awk perl php php-cgi pry pypy python qjs r racket rscript ruby sbcl scala
        swipl tclsh troff wish
    """,
    "is an editor, which writes any file and runs shells": """
        ed editor ee emacs emacsclient ex helix hx jed jmacs joe jstar kak mc mcedit mg micro nano ne nvim pico red rjoe
        rnano rview rvim sed sensible-editor sudoedit vi view vigr vim vimdiff vipw visudo zile
    """,
    "is a pager or viewer, which can run a shell": """
        aspell atop btop bzless bzmore dpkg-query elinks glances htop iftop info ispell less lesspipe lf links lynx man
        more most ncdu nethogs nnn pager perldoc pg pinfo ranger sensible-browser sensible-pager tig top vd visidata w3m
        watch www-browser xzless zless zmore zstdless
    """,
    "runs another program": """
        aa-exec abduco agetty busctl bwrap byobu capsh catchsegv cgexec choom chpst chroot chrt daemonize dbus-launch
        dbus-run-session dbus-send dhclient doas dtach eatmydata entr env envuidgid facter fail2ban-client fakechroot
        fakeroot fd find firejail flock gdbus getty gosu hyperfine i386 ionice linux32 linux64 login logsave machinectl
        monit nc ncat netcat netcat.openbsd netcat.traditional newgrp nice nohup nsenter numactl openvpn openvt parallel
        perf pg_ctl pg_ctlcluster pkexec pppd prlimit proxychains rabbitmqctl rlwrap run-mailcap run-parts run0 runcon
        runsv runuser s6-setuidgid screen script scriptreplay setarch setlock setpriv setsid setuidgid sg socat
        ssh-agent start-stop-daemon stdbuf su su-exec sudo supervisorctl sv systemd-ask-password systemd-cat
        systemd-inhibit systemd-nspawn systemd-run systemd-socket-activate taskset time timeout tini tmate tmux torsocks
        uname26 unbuffer unshare wg-quick x-terminal-emulator x86_64 xargs xinetd xterm xvfb-run
    """,
    "builds or runs what its files say": """
        anacron ansible ansible-playbook ant as bundle bundler c++ cargo cc cfagent chef-client chef-solo clang cmake
        cron crond debuild dpkg-buildpackage g++ gcc gdbserver genisoimage gmake go gradle just latex latexmk ld
        logrotate lualatex make meson mvn ninja npx packer pdflatex pdftex pulumi puppet rake rpmbuild rustc salt
        salt-call terraform tex tofu tsc vagrant xetex
    """,
    "installs packages, whose scripts run as root": """
        alien apk apt apt-get aptitude bootc brew composer conda cpan cpanm debconf dnf do-release-upgrade dpkg
        dpkg-reconfigure dselect easy_install emerge flatpak gdebi gem guix luarocks mamba microdnf nix nix-env npm opkg
        pacman pip pipx pnpm poetry rpm rpm-ostree rpmkeys rpmquery rpmverify snap unattended-upgrade
        unattended-upgrades uv yarn yum zypper
    """,
    "writes any file": """
        7z 7za 7zr alternatives ar aria2c aws axel az base64 borg bsd-mailx bsdtar bspatch bunzip2 bzip2 chkconfig
        compress convert cp cpio cqlsh createdb createuser csplit curl dd debugfs dos2unix dump dumpcap duplicity
        elfedit ettercap ffmpeg ftp gcloud gimp gpg gpg2 gpgsm gs gsutil gunzip gzip hping3 http httpie iconv install
        lftp ln lz4 lzop magick mariadb mkfifo mknod mktemp mmv mongo mongosh mv mysql ncftp nmap objcopy openssl pandoc
        patch patchelf pax pigz prename psql rar rclone rdiff-backup redis-cli rename restic restore rsync s3cmd scanmem
        scp sftp shred shuf smbclient sort split sponge sqlite3 sqlplus star strip sysctl systemd-confext systemd-sysext
        systemd-sysusers systemd-tmpfiles tar tcpdump tee tftp touch truncate tshark uncompress uniq unrar unxz unzip
        unzstd update-alternatives update-rc.d uudecode uuencode wget xdelta xmlstarlet xxd xz yq zip zpaq zstd
    """,
    "changes who may do what with files": """
        chattr chcon chgrp chmod chown restorecon semanage setcap setenforce setfacl setsebool
    """,
    "changes or reads disks and mounts": """
        blockdev btrfs cfdisk cryptsetup dmsetup e2fsck fdisk fsck fusermount fusermount3 gdisk hdparm iscsiadm kpartx
        losetup lvcreate lvextend lvm mdadm mke2fs mkfs mkfs.ext4 mount mount.cifs mount.nfs parted photorec pvcreate
        qemu-nbd rbd sfdisk sgdisk swapon testdisk tune2fs udisksctl umount vgchange xfs_db zfs zpool
    """,
    "reaches another host, or lets its options run programs": """
        autossh dbclient dropbear mosh mosh-server rexec rlogin rsh slogin ssh ssh-add ssh-copy-id ssh-keygen sshd
        sshpass telnet
    """,
    "takes options and hooks that run programs": """
        bzr cvs darcs fossil git git-shell hg lazygit svn svnadmin tig
    """,
    "starts containers or virtual machines, which can mount the host": """
        apptainer buildah containerd crictl crun ctr distrobox docker docker-compose dockerd helm incus incusd k3s k9s
        kubeadm kubectl lxc lxc-attach lxc-start lxd microk8s minikube multipass nerdctl nomad oc podman podman-compose
        qemu qemu-img qemu-system-x86_64 runc singularity skopeo toolbox virsh virt-install
    """,
    "runs something later": """
        at atd batch crontab loginctl systemd-analyze
    """,
    "changes users and their rights": """
        addgroup adduser authconfig authselect chage chfn chgpasswd chpasswd chsh cpgr cppw delgroup deluser faillock
        gpasswd groupadd groupdel groupmod grpconv grpunconv homectl htpasswd kadmin kadmin.local lchsh luseradd
        lusermod newgidmap newuidmap newusers nologin pam-auth-update passwd pwconv pwunconv realm samba-tool smbpasswd
        useradd userdbctl userdel usermod
    """,
    "changes the kernel": """
        bpf bpftool bpftrace depmod dkms dracut efibootmgr flashrom grub-install grub-mkconfig insmod kexec kmod kpatch
        modprobe mokutil rmmod setpci update-grub update-initramfs
    """,
    "debugs other processes and runs code in them": """
        cgdb coredumpctl crash ddd gcore gdb lldb ltrace pstack rr stap strace systemtap uftrace valgrind
    """,
    "changes what programs load": """
        ld.so ldconfig ldd ldso prelink
    """,
    "resets or rewrites the system": """
        bootctl hostnamectl init kernel-install localectl pivot_root sulogin switch_root systemd systemd-firstboot
        telinit timedatectl
    """,
    "manages Tidegate itself": """
        tidegate tidegated
    """,
    "turns file access into commands or mail to programs": """
        exim exim4 mail maildrop mailx mutt postdrop postfix procmail s-nail sendmail
    """,
    "can kill what records and enforces": """
        auditctl augenrules fuser kill killall pkill skill
    """,
}

PROGRAMS: dict[str, str] = {name: reason for reason, names in _GROUPED.items() for name in names.split()}

SAFE_UNIT_VERBS = frozenset({
    "start", "stop", "restart", "reload", "try-restart", "reload-or-restart", "try-reload-or-restart", "condrestart",
    "force-reload", "is-active", "is-enabled", "is-failed", "reset-failed", "configtest",
})  # fmt: skip
SAFE_SYSTEMCTL_OPTIONS = frozenset(
    {"--no-pager", "--quiet", "-q", "--no-block", "--wait", "--full", "-l", "--plain", "--no-legend"}
)

ANYTHING = "*"
_CONTAINERS = "can start a container that mounts the host, or run a program in one"
_CONTAINER_SAFE = (
    *((verb, ANYTHING) for verb in ("ps", "restart", "stop", "stats", "images", "logs")),
    *((verb,) for verb in ("start", "top", "version", "info", "port", "pause", "unpause")),
)
_PAGES = "shows its output in a pager, which can run a shell (--no-pager avoids that)"
_INSTALLS = "installs packages, whose scripts run as root"
_CONFIGURED = "can be given configuration that loads code"
_APACHE = ((("configtest",), ("graceful",), ("restart",), ("start",), ("stop",), ("-t",)), _CONFIGURED)

# Harmless when the arguments begin so and no option follows (after ANYTHING, options too); root-equivalent for the given reason
# otherwise. ``()``: with no argument at all.
RESTRICTED: dict[str, tuple[tuple[tuple[str, ...], ...], str]] = {
    "docker": (_CONTAINER_SAFE, _CONTAINERS),
    "podman": (_CONTAINER_SAFE, _CONTAINERS),
    "journalctl": ((("--no-pager", ANYTHING),), _PAGES),
    "networkctl": ((("--no-pager", "list"), ("--no-pager", "status")), "edits network files, or shows them in a pager"),
    "resolvectl": ((("--no-pager", "query"), ("--no-pager", "status")), "sets who answers names, or shows it in a pager"),
    "loginctl": ((("--no-pager", "list-sessions"), ("--no-pager", "list-users")), "ends sessions, or shows them in a pager"),
    "timedatectl": ((("--no-pager", "status"), ("--no-pager", "show")), "sets the clock, or shows it in a pager"),
    "hostnamectl": ((("--no-pager", "status"),), "renames the host, or shows it in a pager"),
    "apt-get": ((("update",),), _INSTALLS),
    "apt": ((("update",),), _INSTALLS),
    "apt-cache": ((("policy",), ("show",), ("search",)), "can be given other configuration"),
    "apache2": ((("-t",), ("-v",), ("-S",)), _CONFIGURED),
    "httpd": ((("-t",), ("-v",), ("-S",)), _CONFIGURED),
    "dnf": ((("makecache",),), _INSTALLS),
    "ip": ((*((what,) for what in ("addr", "address", "a", "route", "r", "link", "neigh", "rule")), ("-br", "a"), ("-br", "addr")),
           "runs programs in namespaces, or commands from a file"),
    "apachectl": _APACHE,
    "apache2ctl": _APACHE,
    "nginx": ((("-t",), ("-T",), ("-s", "reload"), ("-s", "reopen"), ("-s", "quit"), ("-v",), ("-V",)), _CONFIGURED),
    "sysctl": ((("-a",),), "writes kernel settings that run programs (kernel.core_pattern)"),
    "dmesg": (((), ("-T",), ("-t",)), "can show its output in a pager, or clear the log"),
    "git": ((("--version",),), "takes options and hooks that run programs"),
    "chage": ((("-l",),), "changes users and their rights"),
    "supervisorctl": ((("restart",), ("start",), ("stop",)), "runs another program"),
}  # fmt: skip
