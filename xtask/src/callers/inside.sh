# The part of `world.sh` that runs in the tree.
set -u
HERE=/run/callers
LIGHTER=$HERE/lighter-runtime
export HERE LIGHTER
export CONTAINERS_CONF_OVERRIDE=$HERE/containers.conf
# Longest time of one row, in seconds.
LONGEST=90

docker_up() {
    containerd --root $HERE/containerd --state $HERE/containerd-state --address $HERE/containerd.sock \
        >$HERE/out/containerd.log 2>&1 &
    echo $! >$HERE/containerd.pid
    until [ -S $HERE/containerd.sock ]; do sleep 0.2; done
    dockerd_up
    docker import -c 'CMD ["sh"]' $HERE/busybox.tar busybox >/dev/null
}
dockerd_up() {
    dockerd --data-root $HERE/docker --exec-root $HERE/docker-exec -H unix://$HERE/docker.sock -p $HERE/docker.pid \
        --containerd $HERE/containerd.sock --add-runtime lighter=$LIGHTER --live-restore \
        --bridge=none --iptables=false --ip6tables=false >>$HERE/out/dockerd.log 2>&1 &
    tries=0
    until docker version >/dev/null 2>&1; do
        sleep 0.2
        tries=$((tries + 1))
        [ $tries -lt 150 ] || { echo "dockerd does not answer" >&2; exit 1; }
    done
}
dockerd_down() {
    kill "$(cat $HERE/docker.pid)"
    while [ -e $HERE/docker.pid ]; do sleep 0.1; done
}
# Podman knows what a runtime can do by the runtime's name.
podman_up() {
    cat >$HERE/containers.conf <<CONF
[engine]
runtime_supports_json = ["crun", "lighter-runtime"]
runtime_supports_nocgroup = ["crun", "lighter-runtime"]
[engine.runtimes]
lighter-runtime = ["$LIGHTER"]
CONF
    podman import -c 'CMD ["sh"]' $HERE/busybox.tar busybox >/dev/null 2>&1
}
ctr_up() { :; }
# The engines, with what keeps one run's state from the next.
docker() { command docker -H unix://$HERE/docker.sock "$@"; }
podman() { command podman --root $HERE/podman --runroot $HERE/podman-run --cgroup-manager cgroupfs --log-level error "$@"; }
ctr() { command ctr --address $HERE/containerd.sock -n callers-$R "$@"; }
# What differs between two runs for no reason of the runtime's.
plain() {
    sed -E -e 's/\r$//' -e 's/[0-9a-f]{64}/ID64/g' -e 's/\b[0-9a-f]{12}\b/ID12/g' -e 's/lighter-runtime|crun|runc|lighter/RT/g' \
        -e 's/\^@//g' -e 's/(RT create failed: )?(unable to start container process: )?(error during container init: )?(exec: ")/\4/' \
        -e 's/exec failed: exec:/exec:/' -e 's/container_uuid=.*/container_uuid/' -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+(Z| [+-][0-9]{4} UTC)?/TIME/g' -e 's/pid=?:? ?[0-9]+/pid N/g'
}
# The codes are part of what is compared.
try() {
    "$@"
    echo "exit $?"
}
# Until a command holds, ten seconds at most.
await() {
    turns=0
    until eval "$1"; do
        turns=$((turns + 1))
        [ $turns -lt 100 ] || { echo "never: $1"; return 1; }
        sleep 0.1
    done
}

row() { # CALLER NAME RUNTIME FILE
    R=$3
    mkdir -p $HERE/out/$1
    cat >$HERE/row.sh <<HEAD
R=$3
. $HERE/rows/inside.sh
case \$R in lighter) RT=lighter-runtime RB=$LIGHTER ;; *) RT=\$R RB=/usr/bin/\$R ;; esac
N=$1-$3-$2
. $4
HEAD
    IN_ROW=1 timeout -s KILL $LONGEST sh $HERE/row.sh </dev/null >$HERE/row.out 2>&1
    # Not by a pipe: what a row left running would hold it open.
    plain <$HERE/row.out >$HERE/out/$1/$2.$3
}

[ -z "${IN_ROW:-}" ] || return 0

wanted() { # CALLER/NAME WORD...
    subject=$1
    shift
    [ $# -gt 0 ] || return 0
    for word; do
        case $subject in *"$word"*) return 0 ;; esac
    done
    return 1
}

docker_up
for caller in docker podman ctr; do
    [ $caller = docker ] || ${caller}_up
    case $caller in podman) other=crun ;; *) other=runc ;; esac
    rm -rf $HERE/split
    mkdir $HERE/split
    awk -v dir=$HERE/split '/^## /{sub(":$", "", $2); file = dir "/" $2; next} file{print >file}' $HERE/rows/$caller.rows
    for name in $(sed -n 's/^## \([^: ]*\).*/\1/p' $HERE/rows/$caller.rows); do
        wanted "$caller/$name" "$@" || continue
        for runtime in $other lighter; do row $caller $name $runtime $HERE/split/$name; done
        echo "$caller $name $other"
    done
done
docker ps -aq | xargs -r command docker -H unix://$HERE/docker.sock rm -f >/dev/null 2>&1
podman rm -af -t 0 >/dev/null 2>&1
dockerd_down
