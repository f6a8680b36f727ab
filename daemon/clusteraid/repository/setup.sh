#!/bin/sh
# Lets a Debian or Ubuntu machine get the packages of a Cluster AI cluster from its server, and installs clusterai-agent.
#   sh setup.sh [--yes] [--only-source] [--root DIR] https://SERVER/repo
# The line that `clusteractl token create` prints fetches it, and runs it only when it has the SHA-256 in that line.
set -eu
umask 022

# This cluster's values. The server writes them here.
CLUSTER_CA='@CLUSTER_CA@'
REPOSITORY_KEY='@REPOSITORY_KEY@'
FINGERPRINT='@FINGERPRINT@'

usage() {
    cat <<'END'
usage: setup.sh [--yes] [--only-source] [--root DIR] https://SERVER/repo

  --yes          do not ask
  --only-source  let apt know the repository, and install nothing
  --root DIR     write below DIR in place of /; apt is told so by APT_CONFIG
END
}

fail() {
    echo "setup.sh: $1" >&2
    echo "  $2" >&2
    exit "${3:-1}"
}

# Takes the command line apart; everything in it is checked.
parse() {
    yes=no install=yes root='' url=''
    while [ $# -gt 0 ]; do
        case "$1" in
            --yes) yes=yes ;;
            --only-source) install=no ;;
            --root) [ $# -gt 1 ] || fail "--root wants a directory" "see --help" 2; root=${2%/}; shift ;;
            -h | --help) usage; exit 0 ;;
            https://*/repo) url=$1 ;;
            *) usage >&2; exit 2 ;;
        esac
        shift
    done
    [ -n "$url" ] || { usage >&2; exit 2; }
    place=${url#https://}
    place=${place%/repo}
    host=${place%:*}
    port=${place#"$host"}
    case "$host" in '' | [!A-Za-z0-9]* | *[!A-Za-z0-9.-]*) fail "'$host' is no name or address of a server" "copy the whole line again" 2 ;; esac
    case "$port" in '' | :[1-9] | :[1-9]*[0-9]) ;; *) fail "'$port' is no port" "copy the whole line again" 2 ;; esac
    case "${port#:}" in *[!0-9]*) fail "'$port' is no port" "copy the whole line again" 2 ;; esac
}

check_machine() {
    case "${PREFIX-}" in
        */com.termux/*) fail "this is Termux" "this script is for Debian and Ubuntu" ;;
    esac
    command -v apt-get >/dev/null || fail "there is no apt here" "Cluster AI has packages for Debian and Ubuntu"
    if [ -z "$root" ] && [ "$(id -u)" -ne 0 ]; then
        fail "this takes root's rights" "run it with sudo"
    fi
}

# The files, as they will be.
name_files() {
    source_file=$root/etc/apt/sources.list.d/clusterai.sources
    key_file=$root/etc/apt/keyrings/clusterai.asc
    ca_file=$root/etc/apt/clusterai-ca.pem
    setting_file=$root/etc/apt/apt.conf.d/80clusterai
}

source_text() {
    cat <<END
# The packages of this machine's Cluster AI cluster. Written by setup.sh, removed when clusterai-agent is purged.
Types: deb
URIs: $url/debian
Suites: stable
Components: main
Signed-By: $key_file
END
}

setting_text() {
    cat <<END
// The server's certificate is of the cluster's own authority, which apt trusts for that server only.
Acquire::https::$host::CAInfo "$ca_file";
END
}

explain() {
    echo "This machine will get packages from the Cluster AI server at $url"
    echo
    echo "These files tell apt where, and whom to trust:"
    echo "  $source_file"
    echo "  $key_file (key $FINGERPRINT)"
    if [ -n "$CLUSTER_CA" ]; then
        echo "  $ca_file"
        echo "  $setting_file (for $host only)"
    fi
    if [ $install = yes ]; then
        echo "Then these run:"
        echo "  apt-get update"
        echo "  apt-get install clusterai-agent"
    fi
    echo
}

agree() {
    [ $yes = no ] || return 0
    printf 'Go on? [y/N] '
    read -r answer || fail "nobody answered" "run it in a terminal, or with --yes"
    case "$answer" in
        y | Y | yes) ;;
        *) echo "Nothing was changed."; exit 1 ;;
    esac
}

# Puts standard input into the file, whole or not at all.
put() {
    mkdir -p "${1%/*}"
    cat >"$1.new"
    chmod 0644 "$1.new"
    mv "$1.new" "$1"
}

write_files() {
    printf '%s\n' "$REPOSITORY_KEY" | put "$key_file"
    if [ -n "$CLUSTER_CA" ]; then
        printf '%s\n' "$CLUSTER_CA" | put "$ca_file"
        setting_text | put "$setting_file"
    else
        rm -f "$ca_file" "$setting_file"
    fi
    source_text | put "$source_file"
}

# Reads the repository alone: what is wrong with others is not our business.
read_repository() {
    apt-get -q update -o Dir::Etc::SourceList="$source_file" -o Dir::Etc::SourceParts=/dev/null \
        -o APT::Get::List-Cleanup=0 -o APT::Update::Error-Mode=any
}

main() {
    parse "$@"
    check_machine
    name_files
    explain
    agree
    [ -e "$source_file" ] && was_there=yes || was_there=no
    write_files
    if ! read_repository; then
        if [ "$was_there" = no ]; then
            rm -f "$source_file" "$key_file" "$ca_file" "$setting_file"
        fi
        fail "apt cannot use $url/debian" "see above; is $host the server, and can this machine reach its port 443?"
    fi
    if [ $install = yes ]; then
        apt-get -q update || echo "apt could not read all of its other sources; going on" >&2
        DEBIAN_FRONTEND=noninteractive apt-get -q install -y \
            -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold clusterai-agent
        echo
        echo "clusterai-agent is installed. Join with the token: sudo clusterai-agent join --server $host"
    fi
}

main "$@"
