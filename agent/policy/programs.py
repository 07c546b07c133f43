"""Data of :mod:`agent.policy.privileged`: programs that can run others, or write what root later trusts. Names only, no paths."""

_GROUPED = {
    "is a shell": """
        ash bash bsd-csh busybox csh dash elvish fish ksh mksh nu pdksh posh pwsh rbash rksh sash sh sh.distrib tcsh
        tidegate-shell toybox xonsh yash zsh
    """,
    "is an interpreter, which runs any code": """
        awk bc bpython bun cabal clojure cobc csi dc deno dotnet elixir eqn erl exiftool expect gawk gforth ghc ghci
        ginsh gnuplot groff groovy guile guile3 iex ipython irb java jcmd jdb jjs jrunscript jshell julia
        kotlin ksshell lua luajit luatex m4 mawk mono msfconsole mypy nawk node nodejs nroff ocaml octave
        original-awk pdb pdb3 perl php php-cgi pry pypy python qjs r racket rc rscript ruby sbcl scala
        slsh sqlmap swipl tasksh tclsh troff wish
    """,
    "is an editor, which writes any file and runs shells": """
        ed editor ee emacs emacsclient ex helix hx jed jmacs joe jstar kak mc mcedit mg micro nano ne nvim pico red rjoe
        rnano rview rvim sed sensible-editor sudoedit sudoedit-rs sudoedit.ws vi view vigr vim vimdiff vipw visudo
        visudo-rs visudo.ws zile
    """,
    "is a pager or viewer, which can run a shell": """
        aspell atop bat batcat btop bzless bzmore dpkg-query elinks glances htop iftop info ispell less
        lesspipe lf links lynx man more most ncdu nethogs nnn pager perldoc pg pinfo ranger sensible-browser
        sensible-pager tig top vd visidata w3m watch www-browser xzless yelp zathura zless zmore
        zstdless
    """,
    "runs another program": """
        aa-exec abduco agetty busctl bwrap byobu capsh catchsegv cgexec choom chpst chroot chrt cowsay cowthink
        cpulimit daemonize dbus-launch dbus-run-session dbus-send dhclient doas dtach dvips eatmydata
        enscript entr env envuidgid facter fail2ban-client fakechroot fakeroot fd find firejail flock gdbus genie
        getty gosu grc gtester hyperfine i386 ifdown ifup ionice ksu linux32 linux64 login logsave machinectl monit
        msgfilter multitime nc ncat netcat netcat.openbsd netcat.traditional newgrp ngrok nice nohup nsenter numactl
        openvpn openvt parallel perf pexec pg_ctl pg_ctlcluster pidstat pkexec pppd prlimit proxychains rabbitmqctl
        rlwrap run-mailcap run-parts run0 runcon runsv runuser s6-setuidgid screen script scriptreplay scrot
        setarch setlock setpriv setsid setuidgid sg socat softlimit ssh-agent sshuttle start-stop-daemon
        startx stdbuf su su-exec su-rs sudo sudo-rs sudo.ws supervisorctl sv systemd-ask-password systemd-cat
        systemd-dissect systemd-inhibit systemd-notify systemd-nspawn systemd-pty-forward systemd-run
        systemd-socket-activate systemd-stdio-bridge systemd-vmspawn taskset time timeout tini tmate tmux torify torsocks
        uname26 unbuffer unionfs unshare varlinkctl varnishncsa wg-quick x-terminal-emulator x86_64 xargs xdotool xinetd xinit
        xterm xvfb-run zrun
    """,
    "builds or runs what its files say": """
        anacron ansible ansible-playbook ant as bundle bundler c++ cargo cc certbot cfagent chef-client chef-solo
        clang cmake cron crond csvtool debuild dpkg-buildpackage easyrsa g++ gcc gdbserver gem2deb genisoimage gmake
        go gradle gunicorn just knife latex latexmk ld logrotate lualatex make meson mkinitcpio mvn ninja npx packer
        pdflatex pdftex pulumi puppet rake rpmbuild rspec rustc rustup salt salt-call scons terraform tex tofu tox
        tsc uwsgi vagrant waf xetex
    """,
    "installs packages, whose scripts run as root": """
        alien apk apt apt-get aptdcon aptitude bootc brew composer conda cpan cpanm debconf dnf
        do-release-upgrade dpkg dpkg-reconfigure dselect easy_install emerge eopkg flatpak gdebi gem guix luarocks
        mamba microdnf nix nix-env npm opkg pacman pip pipx pkcon pkg pkgadd pnpm poetry rpm rpm-ostree rpmkeys
        rpmquery rpmverify snap swupd tdnf unattended-upgrade unattended-upgrades uv yarn yum zypper
    """,
    "writes any file": """
        7z 7za 7zr alternatives ar aria2c arj aws axel az base64 basenc borg bsd-mailx bsdcpio bsdtar bspatch
        bunzip2 bzip2 cabextract check_log chkconfig compress convert cp cpio cqlsh createdb createuser csplit curl
        dd debugfs dmidecode dos2unix dump dumpcap duplicity elfedit ettercap ffmpeg ftp gcloud gimp gpg gpg2
        gpgsm gs gsutil gunzip gzip hexedit hping3 http httpie iconv install lftp ln lwp-download lwp-request lz4
        lzop magick mariadb mkfifo mkisofs mknod mktemp mmv mongo mongosh mv mysql ncftp nmap objcopy openssl
        pandoc patch patchelf pax pigz prename psql rar rclone rdiff-backup redis-cli rename restic restore rsync
        rtorrent s3cmd scanmem scp sftp shred shuf smbclient sort sos sosreport split sponge sqlite3 sqlplus
        star strip sysctl systemd-confext systemd-creds systemd-sysext systemd-sysusers systemd-tmpfiles tar tcpdump tee tftp tic
        touch trace-cmd truncate tshark unar uncompress uniq unrar unsquashfs unxz unzip unzstd update-alternatives
        update-rc.d uudecode uuencode wget wodim x11vnc xdelta xmlstarlet xorriso xxd xz yq zip zpaq zstd
    """,
    "changes who may do what with files": """
        chattr chcon chgrp chmod chown restorecon semanage setcap setenforce setfacl setsebool
    """,
    "changes or reads disks and mounts": """
        blockdev btrfs cfdisk cryptsetup ddrescue dislocker dmsetup e2fsck eject fdisk fsck fusermount fusermount3
        gdisk growpart hdparm iscsiadm kpartx losetup lvcreate lvextend lvm mdadm mke2fs mkfs mkfs.ext4 mkswap mount
        mount.cifs mount.fuse mount.nfs nvme partclone parted photorec pvcreate qemu-nbd rbd resize2fs sfdisk sgdisk
        swapoff swapon systemd-cryptenroll systemd-mount systemd-repart systemd-umount
        testdisk tune2fs udisksctl umount vgchange wipefs xfs_db zfs zpool
    """,
    "reaches another host, or lets its options run programs": """
        autossh check_by_ssh dbclient dropbear mosh mosh-server psftp rexec rlogin rsh slogin ssh ssh-add
        ssh-copy-id ssh-keygen sshd sshd-session sshfs sshpass telnet winexe
    """,
    "takes options and hooks that run programs": """
        bzr cvs darcs fossil git git-shell hg lazygit svn svnadmin tig
    """,
    "starts containers or virtual machines, which can mount the host": """
        apptainer buildah cloud-localds containerd crictl crun ctr distrobox docker docker-compose dockerd
        firecracker helm ignite importctl incus incusd k3s k9s kata-runtime kubeadm kubectl lima lxc lxc-attach lxc-start lxd
        microk8s minikube multipass nerdctl nomad oc podman podman-compose podman-remote portablectl qemu qemu-img
        qemu-system-x86_64 runc singularity skopeo toolbox vboxmanage virsh virt-customize virt-install
        virt-sandbox
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
        bpf bpftool bpftrace depmod dkms dracut efibootmgr flashrom grub-install grub-mkconfig insmod kdump-config
        kexec kmod kpatch ldattach modprobe mokutil rmmod setpci setserial tunctl update-grub update-initramfs
    """,
    "debugs other processes and runs code in them": """
        cgdb coredumpctl crash ddd gcore gdb lldb ltrace pstack rr stap strace systemtap uftrace valgrind
    """,
    "changes what programs load": """
        ld.so ldconfig ldd ldso prelink
    """,
    "resets or rewrites the system": """
        bootctl hostnamectl init kernel-install localectl pivot_root sulogin switch_root systemd systemd-firstboot
        systemd-sysinstall telinit timedatectl
    """,
    "sets the clock that grants end by": """
        adjtimex chronyc hwclock ntpdate rdate sntp
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

# Harmless with these options alone, in any order: letters that may stand together behind one dash, long ones (with a value or
# without), what must be there, what every other word must begin with, and why it is root-equivalent otherwise.
PLAIN_OPTIONS: dict[str, tuple[str, frozenset[str], frozenset[str], str, str]] = {
    "journalctl": (
        "abefgklnopqrStuUx0123456789",
        frozenset({
            "--all", "--boot", "--catalog", "--disk-usage", "--dmesg", "--follow", "--full", "--grep", "--identifier", "--lines",
            "--list-boots", "--no-full", "--no-hostname", "--no-pager", "--no-tail", "--output", "--pager-end", "--priority",
            "--quiet", "--reverse", "--since", "--system", "--unit", "--until", "--utc",
        }),
        frozenset({"--no-pager"}),
        "",
        "pages its output, or writes, moves or deletes journals (--no-pager with plain options is harmless)",
    ),
    "ss": (
        "aeHilmnoprstuwx46",
        frozenset({"--all", "--listening", "--numeric", "--processes", "--summary", "--tcp", "--udp", "--unix"}),
        frozenset(),
        "",
        "kills connections, or writes a file",
    ),
    "date": (
        "uRI",
        frozenset({"--utc", "--rfc-email", "--rfc-3339", "--iso-8601"}),
        frozenset(),
        "+",
        "sets the clock that grants end by",
    ),
}  # fmt: skip

# Harmless when the arguments begin so and no option follows (after ANYTHING, options too); root-equivalent for the given reason
# otherwise. ``()``: with no argument at all.
RESTRICTED: dict[str, tuple[tuple[tuple[str, ...], ...], str]] = {
    "docker": (_CONTAINER_SAFE, _CONTAINERS),
    "podman": (_CONTAINER_SAFE, _CONTAINERS),
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
