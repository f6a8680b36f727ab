#!/bin/sh
# Lets a machine with Debian, Ubuntu or Termux get the packages of a Cluster AI cluster from its server, and installs
# clusterai-agent. On a phone it also joins, with the token on its standard input, and starts the agent.
#   sh setup.sh [--yes] [--only-source] [--root DIR] https://SERVER/repo
# The line that `clusteractl token create` prints fetches it, and runs it only when it has the SHA-256 in that line.
set -eu
umask 022

# This cluster's values. The server writes them here.
CLUSTER_CA='@CLUSTER_CA@'
REPOSITORY_KEY='@REPOSITORY_KEY@'
FINGERPRINT='@FINGERPRINT@'
PHONE_MEGABYTES=600 # Python, numpy and the others, unpacked, and room to unpack them

usage() {
    cat <<'END'
usage: setup.sh [--yes] [--only-source] [--root DIR] [--server HOST:PORT] https://SERVER/repo

  --yes          do not ask
  --only-source  let apt know the repository, and install nothing
  --root DIR     write below DIR in place of /; apt is told so by APT_CONFIG
  --server HOST:PORT  where a phone joins, if it is not SERVER's usual port
END
}

fail() {
    echo "setup.sh: $1" >&2
    echo "  $2" >&2
    exit "${3:-1}"
}

# Takes the command line apart; everything in it is checked.
parse() {
    yes=no install=yes root='' url='' server='' token=''
    while [ $# -gt 0 ]; do
        case "$1" in
            --yes) yes=yes ;;
            --only-source) install=no ;;
            --root) [ $# -gt 1 ] || fail "--root wants a directory" "see --help" 2; root=${2%/}; shift ;;
            --server) [ $# -gt 1 ] || fail "--server wants an address" "see --help" 2; server=$2; shift ;;
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

# Finds out what this machine is and refuses what cannot work, before anything is changed.
check_machine() {
    case "${PREFIX-}" in
        */com.termux/*) distribution=termux root=$PREFIX; check_phone ;;
        *) distribution=debian ;;
    esac
    command -v apt-get >/dev/null || fail "there is no apt here" "Cluster AI has packages for Debian, Ubuntu and Termux"
    if [ -z "$root" ] && [ "$(id -u)" -ne 0 ]; then
        fail "this takes root's rights" "run it with sudo"
    fi
}

check_phone() {
    case "${TERMUX_VERSION-} ${TERMUX_APK_RELEASE-}" in
        *googleplay* | *GOOGLE_PLAY*)
            fail "this Termux is from Google Play, which is another one with other packages" \
                "remove it, install Termux from F-Droid or from its GitHub releases, and paste the line there" ;;
    esac
    case "${TERMUX_APP_PACKAGE_MANAGER-} ${TERMUX_APP__PACKAGE_MANAGER-} ${TERMUX_MAIN_PACKAGE_FORMAT-}" in
        *pacman*) fail "this Termux uses pacman, for which there are no packages" "use a Termux with apt, which is the usual one" ;;
    esac
    [ "$(id -u)" -ne 0 ] || fail "this is root" "Termux's packages are installed by its own user: run it without su"
    free=$(df -Pk "$PREFIX" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge $PHONE_MEGABYTES ] ||
        fail "there are $free MB free, and it takes $PHONE_MEGABYTES" "make room in Android's settings, under Storage"
    # The token comes with the line, in no argument: arguments are shown by ps.
    if [ $install = yes ] && [ ! -t 0 ]; then
        read -r token || true
        case "$token" in
            cai1.*) ;;
            *) fail "there is no join token on standard input" "copy the whole line again" ;;
        esac
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
URIs: $url/$distribution
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
        if [ "$distribution" = termux ]; then
            echo "  pkg install clusterai-agent"
            echo "  clusterai-agent join --server ${server:-$host}"
            echo "  sv-enable clusterai-agent"
        else
            echo "  apt-get update"
            echo "  apt-get install clusterai-agent"
        fi
    fi
    echo
}

agree() {
    [ $yes = no ] || return 0
    printf 'Go on? [y/N] '
    if [ -n "$token" ]; then
        { read -r answer </dev/tty; } 2>/dev/null || answer=none
    else
        read -r answer || answer=none
    fi
    case "$answer" in
        y | Y | yes) ;;
        none) fail "nobody answered" "run it in a terminal, or with --yes" ;;
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

install_on_debian() {
    apt-get -q update || echo "apt could not read all of its other sources; going on" >&2
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold clusterai-agent
    echo
    echo "clusterai-agent is installed. Join with the token: sudo clusterai-agent join --server $host"
}

install_on_phone() {
    apt-cache show clusterai-agent >/dev/null 2>&1 ||
        fail "the server has no packages for phones" "on the server: sudo clusteraid repo add dist/termux/*.deb"
    pkg install -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold clusterai-agent </dev/null ||
        fail "clusterai-agent could not be installed" "see above; \`pkg upgrade\` helps when packages do not fit together"
    echo
    join
    start_agent
    echo
    echo "This phone is a node of the cluster. It computes while it charges, and rests otherwise."
    echo "  how it is:         clusterai-agent status"
    echo "  let it rest:       clusterai-agent pause 2h"
    echo "  switch it off:     sv-disable clusterai-agent"
    echo "  take it away:      clusterai-agent leave, then pkg uninstall clusterai-agent"
}

join() {
    if [ -e "$PREFIX/var/lib/clusterai-agent/node.pem" ]; then
        echo "This phone has joined already, and stays what it is."
    elif [ -n "$token" ]; then
        printf '%s\n' "$token" | clusterai-agent join --server "${server:-$host}" --token-file -
    else
        clusterai-agent join --server "${server:-$host}"
    fi
}

# A session that was open before the services were installed has no supervisor yet, and that takes seconds to look.
start_agent() {
    set +u
    # shellcheck source=/dev/null
    . "$PREFIX/etc/profile.d/start-services.sh"
    set -u
    tries=0
    while ! sv status clusterai-agent >/dev/null 2>&1 && [ $tries -lt 30 ]; do
        sleep 1
        tries=$((tries + 1))
    done
    sv-enable clusterai-agent || fail "the service does not start" "close Termux, open it again, and run: sv-enable clusterai-agent"
}

# A clock that is wrong makes certificates and signatures look so. Whoever answers here is not checked: it makes a sentence only.
check_clock() {
    date_there=$(curl -fsSkI --max-time 10 "$url/setup.sh" 2>/dev/null | sed -n 's/^[Dd]ate: *//p' | tr -d '\r')
    [ -n "$date_there" ] && there=$(date -d "$date_there" +%s 2>/dev/null) || return 0
    ahead=$(($(date +%s) - there))
    [ $ahead -gt 3600 ] || [ $ahead -lt -3600 ] || return 0
    case "$distribution" in
        termux) how="in Android's settings, under System, Date & time, switch *Set time automatically* on" ;;
        *) how="set it (timedatectl shows it)" ;;
    esac
    fail "this machine's clock says $(date -u '+%F %T') UTC, the server's $(date -u -d "$date_there" '+%F %T') UTC" \
        "if this one is wrong, $how; then paste the line again"
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
        check_clock
        fail "apt cannot use $url/$distribution" "see above; is $host the server, and can this machine reach its port 443?"
    fi
    if [ $install = yes ]; then
        if [ "$distribution" = termux ]; then install_on_phone; else install_on_debian; fi
    fi
}

main "$@"
