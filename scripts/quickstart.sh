#!/usr/bin/env bash
# Builds the daemon and shows its main job on SQLite files: a primary that already holds rows, two
# replicas, the real daemon and the real command line. Needs no server; can be run again and again.
#
#   ./scripts/quickstart.sh          build, run, show; the daemon stays up for you to try
#   ./scripts/quickstart.sh stop     stop that daemon
set -euo pipefail
cd "$(dirname "$0")/.."

here="$PWD/.quickstart"
# `release` is what one would install; the tests set REPL_PROFILE=dev REPL_QUICKSTART_BUILD=no to
# use the binaries they have built.
profile="${REPL_PROFILE:-release}"
folder=$profile
[ "$profile" = dev ] && folder=debug
bin="${CARGO_TARGET_DIR:-target}/$folder"
export REPLCTL_SOCKET="$here/log/repl-daemon.sock"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

stop_daemon() {
    [ -f "$here/daemon.pid" ] || return 0
    local pid
    pid=$(cat "$here/daemon.pid")
    # The number may belong to another process by now: only our own daemon is stopped.
    if grep -qs "$here/config.toml" "/proc/$pid/cmdline"; then
        kill -TERM "$pid"
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -0 "$pid" 2>/dev/null && fail "the daemon (pid $pid) did not stop; see $here/daemon.log"
        echo "daemon stopped (pid $pid)"
    fi
    rm -f "$here/daemon.pid"
}

# An ordinary SQLite client in another process: sqlite3, or Python's built-in module.
if command -v sqlite3 >/dev/null 2>&1; then
    client="sqlite3"
    sql() { sqlite3 -cmd '.timeout 5000' "$1" "$2"; }
elif command -v python3 >/dev/null 2>&1 && python3 -c 'import sqlite3' 2>/dev/null; then
    client="python3"
    sql() {
        python3 - "$1" "$2" <<'PY'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
for statement in filter(str.strip, sys.argv[2].split(";")):
    for row in db.execute(statement):
        print("|".join(str(value) for value in row))
PY
    }
else
    fail "an SQLite client is needed to play the application: apt-get install sqlite3"
fi

now_ms() { date +%s%3N; }

# wait_for FILE QUERY VALUE: until the query returns the value, at most 20 s.
wait_for() {
    local limit=$(($(now_ms) + 20000))
    until [ "$(sql "$1" "$2" 2>/dev/null)" = "$3" ]; do
        [ "$(now_ms)" -lt "$limit" ] || fail "$1 did not get there in 20 s; see $here/daemon.log"
    done
}

if [ "${1:-}" = stop ]; then
    stop_daemon
    exit 0
fi
[ $# -eq 0 ] || fail "usage: $0 [stop]"
command -v cargo >/dev/null 2>&1 ||
    fail "no Rust toolchain: \`cargo\` is not on the PATH. Install one with rustup and run this again."

say "1. Build (a few minutes the first time)"
if [ "${REPL_QUICKSTART_BUILD:-yes}" = yes ]; then
    cargo build --profile "$profile" --bin repl-daemon --bin replctl
fi

say "2. A primary that already holds rows, and a configuration"
stop_daemon
rm -rf "$here"
mkdir -p "$here"
sql "$here/primary.db" "
    PRAGMA journal_mode = WAL;
    CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE);
    CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers, cents INTEGER);
    INSERT INTO customers VALUES (1, 'Ada', 'ada@example.org'), (2, 'Grace', 'grace@example.org');
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
        INSERT INTO orders SELECT i, 1 + i % 2, i * 7 FROM n;
" >/dev/null
cat >"$here/config.toml" <<TOML
[group]
name = "quickstart"

[log]
dir = "$here/log"

[[node]]
name = "primary"
role = "primary"
url = "sqlite://$here/primary.db"

[[node]]
name = "replica-1"
role = "replica"
url = "sqlite://$here/replica-1.db"

[[node]]
name = "replica-2"
role = "replica"
url = "sqlite://$here/replica-2.db"
TOML
"$bin/repl-daemon" --check "$here/config.toml"

say "3. Start the daemon; it copies the existing rows"
nohup "$bin/repl-daemon" "$here/config.toml" </dev/null >"$here/daemon.log" 2>&1 &
echo $! >"$here/daemon.pid"
for replica in replica-1 replica-2; do
    wait_for "$here/$replica.db" "SELECT count(*) FROM orders" 10000
    echo "$replica: $(sql "$here/$replica.db" "SELECT count(*) FROM customers") customers, 10000 orders"
done

say "4. Live writes by $client, another process, and how long they take to arrive"
echo "(looked for by starting $client over and over, which is part of the figures)"
waiting=()
for i in 1 2 3 4 5; do
    sql "$here/primary.db" "
        BEGIN;
        INSERT INTO customers (name) VALUES ('customer $i');
        UPDATE orders SET cents = cents + 1 WHERE id <= 10;
        INSERT INTO orders (customer, cents) VALUES (last_insert_rowid(), $i);
        COMMIT;"
    written=$(now_ms)
    for replica in replica-1 replica-2; do
        (
            wait_for "$here/$replica.db" \
                "SELECT count(*) FROM customers WHERE name = 'customer $i'" 1
            echo "transaction $i is in $replica $(($(now_ms) - written)) ms after its commit"
        ) &
        waiting+=($!)
    done
    for pid in "${waiting[@]}"; do wait "$pid" || exit 1; done
    waiting=()
done

say "5. replctl status"
"$bin/replctl" status

say "Done. The daemon is running (pid $(cat "$here/daemon.pid"))."
cat <<TEXT
Files      $here: primary.db, replica-1.db, replica-2.db, config.toml, daemon.log, log/
Write      sqlite3 $here/primary.db "INSERT INTO customers (name) VALUES ('me')"
Look       sqlite3 $here/replica-1.db "SELECT * FROM customers ORDER BY id DESC LIMIT 3"
Watch      $bin/replctl --socket $here/log/repl-daemon.sock status --watch
The log    $bin/replctl --socket $here/log/repl-daemon.sock log
Stop       ./scripts/quickstart.sh stop
TEXT
