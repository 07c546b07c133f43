# shellcheck shell=dash
# What sshd waits for in a recorded terminal: the shell runs below it, and it ends as the shell ended, once the recorder has
# brought the last of the output. Run by tidegate-shell as dash, which is small; see there for the descriptors.
#
# The shell is a job, since only of a job dash tells whether it was killed or ended with the same number (128+n).
trap '' HUP INT QUIT TERM PIPE # PIPE: the recorder may have hung up
"$@" <&4 >&4 2>&4 3>&- 4>&- 5>&- 6>&- &
exec 4>&-
wait $!
s=$?
jobs >&5
read -r how <&6
echo >&3
read -r _ <&3
case $how in *" Done"*) exit $s ;; esac
ulimit -c 0
trap - $((s - 128))
kill -$((s - 128)) $$
