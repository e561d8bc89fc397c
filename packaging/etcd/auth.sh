#!/bin/sh
# Users and roles in etcd for one cluster of pgvane or Patroni, each with what it needs and no more; then authentication.
#
#   auth.sh SCOPE [NAMESPACE]    makes or repairs roles and users of that cluster (namespace "service" unless given)
#   auth.sh --enable             switches authentication on, once the clients know their users
#
# etcdctl is told how to reach etcd by its own variables: ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY. From
# --enable on that certificate must be one whose common name is "root".
#
#   user                    may                                             for
#   pgvane-SCOPE-agent      read and write all keys of SCOPE                pgvane-agent, Patroni
#   pgvane-SCOPE-proxy      read them                                       pgvane
#   pgvane-SCOPE-reader     read them                                       pgvanectl list, check, history, ...
#   pgvane-SCOPE-operator   read them, write config and failover            pgvanectl edit-config, pause, switchover, ...
#                           (`pgvanectl remove` deletes all keys: as the agent)
#
# A user logs in by a client certificate with its name as the common name. It has a password as well where a file
# $PGVANE_ETCD_PASSWORDS/USER has one in its first line. Patroni and patronictl know no other way: they come through etcd's
# JSON gateway, which takes a password, and a certificate only if it has no common name.
set -eu

if [ "${1:-}" = --enable ]; then
    etcdctl user get root >/dev/null 2>&1 || etcdctl user add root --no-password
    etcdctl role get root >/dev/null 2>&1 || etcdctl role add root
    etcdctl user grant-role root root
    exec etcdctl auth enable
fi

scope=${1:?usage: auth.sh SCOPE [NAMESPACE], or auth.sh --enable}
case $scope in */*) echo "auth.sh: a scope has no slash: $scope" >&2; exit 64 ;; esac
prefix=/${2:-service}/$scope/
name=pgvane-$scope

# The slash at the end of the prefix keeps "main" out of "main2".
role() {
    etcdctl role get "$1" >/dev/null 2>&1 || etcdctl role add "$1"
}
role "$name-agent"
etcdctl role grant-permission "$name-agent" readwrite --prefix "$prefix"
role "$name-reader"
etcdctl role grant-permission "$name-reader" read --prefix "$prefix"
role "$name-operator"
etcdctl role grant-permission "$name-operator" readwrite "${prefix}config"
etcdctl role grant-permission "$name-operator" readwrite "${prefix}failover"

user() {
    user=$1
    shift
    password=${PGVANE_ETCD_PASSWORDS:-/nowhere}/$user
    if etcdctl user get "$user" >/dev/null 2>&1; then
        [ ! -f "$password" ] || etcdctl user passwd "$user" --interactive=false <"$password"
    elif [ -f "$password" ]; then
        etcdctl user add "$user" --interactive=false <"$password"
    else
        etcdctl user add "$user" --no-password
    fi
    for granted; do
        etcdctl user grant-role "$user" "$granted"
    done
}
user "$name-agent" "$name-agent"
user "$name-proxy" "$name-reader"
user "$name-reader" "$name-reader"
user "$name-operator" "$name-reader" "$name-operator"
