#!/bin/sh
# Moves applications from one cluster to another as people do it: rsync over ssh between two pods for files, dd over ssh for
# a device, and kubectl scale. It proves nothing, and nothing keeps anybody from writing meanwhile.
#
#   script.sh prepare   two pods beside each volume, and two copies while the applications run
#   script.sh move      a third copy; then stop, copy again, start. Prints when each step was over, in ms since 1970
#
# The applications are in both clusters already, in the second one without replicas. What it is told in its environment:
#   KUBECTL         kubectl
#   FROM, TO        kubeconfigs
#   NAMESPACE       the namespace, of the same name in both clusters
#   TO_NODE         an address of a node of the second cluster
#   IMAGE           an image with rsync, ssh and sshd
#   SETS            names of the StatefulSets, each of one pod
#   VOLUMES         a line for each volume: claim, pod that has it, volume mode, storage class, size
set -eu

from() { "$KUBECTL" kubectl --kubeconfig "$FROM" --namespace "$NAMESPACE" "$@"; }
to() { "$KUBECTL" kubectl --kubeconfig "$TO" --namespace "$NAMESPACE" "$@"; }
mark() { echo "$1 $(date +%s%3N)"; }

# each COMMAND…: runs it for each volume, side by side, with the fields of its line behind it; fails if one of them does.
each() {
    running=''
    while read -r volume; do
        # The fields are to be split.
        # shellcheck disable=SC2086
        "$@" $volume </dev/null &
        running="$running $!"
    done <<END
$VOLUMES
END
    for one in $running; do wait "$one"; done
}

claim() { # CLAIM POD MODE CLASS SIZE
    to apply --filename - <<END
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $1}
spec: {accessModes: [ReadWriteOnce], volumeMode: $3, storageClassName: $4, resources: {requests: {storage: $5}}}
END
}

# A pod beside a volume, on the node where that is used already.
pod() { # CLAIM MODE NODE
    case $2 in
        Block) volume='volumeDevices: [{name: volume, devicePath: /dev/volume}]' ;;
        *) volume='volumeMounts: [{name: volume, mountPath: /volume}]' ;;
    esac
    cat <<END
apiVersion: v1
kind: Pod
metadata: {name: copy-$1, labels: {copies: $1}}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {$3}
  containers: [{name: copy, image: $IMAGE, imagePullPolicy: IfNotPresent, $volume}]
  volumes: [{name: volume, persistentVolumeClaim: {claimName: $1}}]
END
}

pods() { # CLAIM POD MODE CLASS SIZE
    node=$(from get pod "$2" --output 'jsonpath={.spec.nodeName}')
    pod "$1" "$3" "kubernetes.io/hostname: $node" | from apply --filename -
    pod "$1" "$3" "" | to apply --filename -
    to create service nodeport "copy-$1" --tcp 22
    to set selector service "copy-$1" "copies=$1"
    from wait --for condition=Ready "pod/copy-$1" --timeout 3m
    to wait --for condition=Ready "pod/copy-$1" --timeout 3m
    from exec "copy-$1" -- ssh-keygen -q -t ed25519 -N '' -f /tmp/key
    key=$(from exec "copy-$1" -- cat /tmp/key.pub)
    to exec "copy-$1" -- sh -c "ssh-keygen -A && mkdir -p ~/.ssh && echo '$key' >~/.ssh/authorized_keys && /usr/sbin/sshd"
}

copy() { # CLAIM POD MODE CLASS SIZE
    port=$(to get service "copy-$1" --output 'jsonpath={.spec.ports[0].nodePort}')
    ssh="ssh -i /tmp/key -p $port -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR"
    case $3 in
        Block)
            from exec "copy-$1" -- sh -c "dd if=/dev/volume bs=4M status=none |
                $ssh root@$TO_NODE dd of=/dev/volume bs=4M iflag=fullblock status=none"
            ;;
        *)
            # 24: something vanished while it was read, which only happens while the application runs.
            from exec "copy-$1" -- rsync -aHAX --numeric-ids --delete -e "$ssh" /volume/ "root@$TO_NODE:/volume/" ||
                [ $? = 24 ]
            ;;
    esac
}

# A device is copied once, since a copy while it is written to saves nothing.
copy_early() {
    [ "$3" = Block ] || copy "$@"
}

prepare() {
    each claim
    each pods
    each copy_early
    each copy_early
}

move() {
    each copy_early
    names=$(echo "$VOLUMES" | while read -r _ pod _; do echo "pod/$pod"; done)
    mark stopping
    # shellcheck disable=SC2086
    from scale statefulset $SETS --replicas 0
    # shellcheck disable=SC2086
    from wait --for delete $names --timeout 3m
    mark released
    each copy
    mark copied
    # shellcheck disable=SC2086
    to scale statefulset $SETS --replicas 1
    for set in $SETS; do to rollout status "statefulset/$set" --timeout 5m; done
    mark ready
}

"$1"
