#!/bin/sh
# Boots a throw-away systemd in namespaces, and ends it as soon as nobody holds our input.
#
#   unshare --mount boot.sh try                                  may it be done here?
#   unshare --mount boot.sh keep NETWORK [SOURCE TARGET rw|ro]…  do it; NETWORK: own or shared
#
# Said on standard output once it begins: its first process, as this machine numbers it, and its
# cgroup. Then input is read to its end, which comes when the caller closes it, or was killed. Is
# this process itself killed, the kernel kills the system with it.
set -eu
# In our own mount namespace, so it can be anything that is there on every machine and that nobody
# here needs; a temporary folder could be left behind.
stage=/sys
# What these are for belongs to the machine, and no namespace keeps it apart.
machines=-sys_module,-sys_rawio,-sys_time,-mac_override,-mac_admin,-syslog,-wake_alarm,-block_suspend

# A view of a folder whose writes are kept in the stage.
overlay() { # FOLDER TARGET
  layer=$stage/layers/$1
  mkdir -p "$layer/upper" "$layer/work"
  mount -t overlay -o "lowerdir=$1,upperdir=$layer/upper,workdir=$layer/work" overlay "$2"
}

# A cgroup whose processes were killed: it may take a moment until they are gone.
remove() { # CGROUP TRIES
  for _ in $(seq "$2"); do
    find "$1" -depth -type d -exec rmdir {} + 2> /dev/null || :
    [ -d "$1" ] || break
    sleep 0.02
  done
}

prepare() {
  mount -t tmpfs -o mode=0755 throwaway "$stage"
  mkdir "$stage/root" "$stage/cgroup"
  : > "$stage/console"
  # A view of the hierarchy that nobody else has.
  mount -t cgroup2 cgroup2 "$stage/cgroup"
  own=$stage/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
  for left in "$own"/custody-tests-*; do
    # Its keeper was killed and could not clear up.
    [ -e "/proc/${left##*-}" ] || remove "$left" 1
  done
  cgroup=$own/custody-tests-$$
  mkdir -p "$cgroup/payload"
}

# A copy-on-write view of this machine's files, with API file systems as
# https://systemd.io/CONTAINER_INTERFACE asks for them, and none of this machine's units.
make_root() { # [SOURCE TARGET rw|ro]…
  safe=nosuid,nodev,noexec
  overlay / "$stage/root"
  cd "$stage/root"
  # An overlay of the root does not show what is in file systems below it.
  for part in etc home opt root srv usr var; do
    ! mountpoint --quiet "/$part" || overlay "/$part" "$part"
  done
  mkdir -p proc sys run dev
  mount -t proc -o $safe proc proc
  for switches in proc/sys proc/sysrq-trigger; do
    [ ! -e $switches ] || mount -o bind,ro $switches $switches
  done
  mount -t sysfs -o ro,$safe sysfs sys
  mount -t cgroup2 -o $safe cgroup2 sys/fs/cgroup
  mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs run
  mount -t tmpfs -o mode=0755,nosuid tmpfs dev
  for node in null zero full random urandom tty; do cp --archive "/dev/$node" dev/; done
  mkdir dev/pts dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  ln -s fd/0 dev/stdin
  ln -s fd/1 dev/stdout
  ln -s fd/2 dev/stderr
  : > dev/console
  mount --bind "$stage/console" dev/console
  while [ $# -gt 0 ]; do
    if [ "$(stat --dereference --format=%F "$1")" = directory ]; then
      mkdir -p ".$2"
    else
      mkdir -p ".${2%/*}"
      : > ".$2"
    fi
    mount -o "rbind,$3" "$1" ".$2"
    shift 3
  done
}

# Take away, in the overlay alone, what would start units or tell who this machine is.
forget_this_machine() {
  for library in /usr/lib /lib /usr/local/lib /etc; do
    rm -rf "$library/systemd/system-generators" "$library/systemd/system-environment-generators" \
      "$library"/systemd/system/*.wants "$library"/systemd/system/*.requires
  done
  mkdir -p /etc/systemd/system /run/systemd/journald.conf.d
  # The key of the machine's own credentials too: the system makes one of its own.
  rm -f /etc/systemd/system/basic.target /etc/machine-id /etc/fstab \
    /var/lib/systemd/credential.secret
  : > /etc/fstab
  tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
  printf '%s\n' '[Journal]' Storage=volatile RateLimitIntervalSec=0 ForwardToConsole=no \
    > /run/systemd/journald.conf.d/throwaway.conf
  cat > /etc/systemd/system/basic.target << 'UNIT'
[Unit]
Description=Basics of a throw-away system
Requires=sysinit.target
Wants=sockets.target timers.target systemd-journald.service systemd-journald-dev-log.socket
Wants=dbus.socket
After=sysinit.target sockets.target timers.target systemd-journald.service
AllowIsolate=yes
UNIT
}

step=$1
shift
case $step in
  try)
    prepare
    trap 'remove "$cgroup" 500' EXIT
    overlay / "$stage/root"
    unshare --pid --fork --mount --uts --ipc --cgroup --net true
    ;;
  keep)
    # Whoever starts us decides by our input alone: a Ctrl-C in its terminal is not for us.
    trap '' INT
    prepare
    trap 'remove "$cgroup" 500' EXIT
    if [ "$1" = shared ]; then machines=$machines,-net_admin; fi
    setsid setpriv --pdeathsig KILL --bounding-set="$machines" \
      unshare --pid --fork --kill-child=KILL sh "$0" enter "$cgroup" "$@" 2>> "$stage/console" &
    exec 1>&-
    read -r _ || :
    kill -KILL $! 2> /dev/null || :
    wait
    ;;
  enter) # its cgroup first: the namespace of cgroups begins where a process is
    echo 0 > "$1/cgroup.procs"
    read -r init _ < /proc/self/stat
    echo "$init $1"
    network=
    if [ "$2" = own ]; then network=--net; fi
    shift 2
    exec unshare --mount --uts --ipc --cgroup $network sh "$0" become "$@"
    ;;
  become)
    make_root "$@"
    mkdir run/old
    pivot_root . run/old
    cd /
    umount --lazy run/old
    rmdir run/old
    # Or what systemd mounts for a service would not be seen in that one's own namespace.
    mount --make-rshared /
    forget_this_machine
    for systemd in /usr/lib/systemd/systemd /lib/systemd/systemd; do [ ! -x $systemd ] || break; done
    exec env -i container=custody-tests LANG=C.UTF-8 $systemd --system --unit=basic.target \
      --show-status=no --log-target=journal < /dev/null >> /dev/console 2>&1
    ;;
esac
