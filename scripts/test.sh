#!/usr/bin/env bash
# Installs what the tests need where it is absent, then runs every check: format, clippy without
# warnings, all tests against real servers. Safe to run again; nothing already running is touched.
#
#   ./scripts/test.sh            everything
#   ./scripts/test.sh FILTER     everything, but only tests whose name contains FILTER
set -euo pipefail
cd "$(dirname "$0")/.."

# One feature set for every step, so that nothing is built twice. What is built are always the tests,
# and with them the programs they run: without the tests' own dependencies, libraries that both use
# would have fewer features, and be built once more.
features=(--workspace --features repl-daemon/failpoints)

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'test.sh: %s\n' "$*" >&2; exit 1; }

need_cargo() {
    command -v cargo >/dev/null 2>&1 && return
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    command -v cargo >/dev/null 2>&1 || fail \
        "no Rust toolchain: \`cargo\` is not on the PATH. Install one with rustup and run this again."
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 || fail \
            "\`cargo $component\` is missing. Install it with: rustup component add rustfmt clippy"
    done
}

# Servers' programs are often not on an ordinary user's PATH.
have() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1
}

have_postgres() {
    [ -n "${REPL_TEST_PG_BIN:-}" ] || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null
}

# Debian packages for whatever is absent, in one apt-get run.
install_missing() {
    local packages=() starts_service=no masks=no
    if ! have_postgres; then packages+=(postgresql); starts_service=yes; fi
    if ! have mariadbd || ! have mariadb-install-db; then packages+=(mariadb-server); masks=yes; fi
    command -v psql >/dev/null 2>&1 || packages+=(postgresql-client)
    command -v sqlite3 >/dev/null 2>&1 || packages+=(sqlite3)
    command -v openssl >/dev/null 2>&1 || packages+=(openssl)
    # Makes an fsync fail, which nothing else here can.
    command -v strace >/dev/null 2>&1 || packages+=(strace)
    # Cuts the daemon off from a server in a network of its own.
    command -v ip >/dev/null 2>&1 || packages+=(iproute2)
    # The bundled SQLite library is compiled from C.
    command -v cc >/dev/null 2>&1 || packages+=(build-essential)
    [ ${#packages[@]} -eq 0 ] && return

    say "installing: ${packages[*]}"
    command -v apt-get >/dev/null 2>&1 || fail \
        "missing: ${packages[*]}. This system has no apt-get; install them by its own means and run this again."
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 || fail \
            "missing: ${packages[*]}. Run \`apt-get install ${packages[*]}\` as root, then this again."
        root=(sudo)
    fi
    # The tests start servers of their own; the package need not make and start one.
    if [ "$starts_service" = yes ] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        "${root[@]}" mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' |
            "${root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    # Debian asks this program before it starts a service; one that is there is left alone.
    local policy=/usr/sbin/policy-rc.d policy_made=no
    if [ "$masks" = yes ] && [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
        "${root[@]}" chmod 755 "$policy"
        policy_made=yes
        trap "${root[*]} rm -f $policy" EXIT
    fi
    "${root[@]}" apt-get update -q
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${packages[@]}"
    if [ "$policy_made" = yes ]; then
        "${root[@]}" rm -f "$policy"
        trap - EXIT
    fi
}

run_tests() {
    local filter=("$@")
    if cargo nextest --version >/dev/null 2>&1; then
        # Profiles and the number of tests at a time are in .config/nextest.toml.
        cargo nextest run "${features[@]}" --no-fail-fast "${filter[@]}"
    else
        # Each server test keeps several processes busy: two at a time, whatever the machine.
        cargo test "${features[@]}" --no-fail-fast -- --test-threads=2 "${filter[@]}"
    fi
}

# A clean build that is thrown away need not prepare for the next one.
if [ "${CI:-}" = true ]; then export CARGO_INCREMENTAL=0; fi

started=$SECONDS
need_cargo
install_missing
say "format"
cargo fmt --all --check
say "clippy"
cargo clippy "${features[@]}" --all-targets -- -D warnings
say "build"
cargo test "${features[@]}" --no-run
say "tests"
status=0
run_tests "$@" || status=$?
if [ "$status" -eq 0 ]; then
    say "all checks passed in $((SECONDS - started)) s"
else
    say "FAILED after $((SECONDS - started)) s (the tests' summary is above)"
fi
exit "$status"
