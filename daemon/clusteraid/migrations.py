"""The store's schema as numbered steps. A step that was released is never changed; a new one is appended.

Only state that must outlive the daemon is here: heartbeats, samples and sessions are not.
"""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

    CREATE TABLE node (
        node_id TEXT PRIMARY KEY,
        created_at REAL NOT NULL,
        facts BLOB NOT NULL,                      -- a serialised NodeFacts, of the last hello
        desired TEXT NOT NULL DEFAULT 'active' CHECK (desired IN ('active', 'draining', 'drained')),
        drain_deadline REAL NOT NULL DEFAULT 0,   -- Unix seconds, while draining
        admitted_by TEXT NOT NULL DEFAULT ''      -- who made the token, or 'approval'
    ) WITHOUT ROWID;

    CREATE TABLE token (
        token_id TEXT PRIMARY KEY,
        secret_hash BLOB NOT NULL,
        role TEXT NOT NULL,
        bound_name TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        use_limit INTEGER NOT NULL,
        created_by TEXT NOT NULL,
        use_count INTEGER NOT NULL DEFAULT 0 CHECK (use_count <= use_limit),
        revoked INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;

    CREATE TABLE certificate (
        serial TEXT PRIMARY KEY,
        identity TEXT NOT NULL,
        not_after REAL NOT NULL,
        revoked INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE INDEX certificate_of_identity ON certificate (identity);

    CREATE TABLE operator (
        name TEXT PRIMARY KEY,
        role TEXT NOT NULL,
        created_at REAL NOT NULL,
        certificate_not_after REAL NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE event (
        sequence INTEGER PRIMARY KEY,
        time REAL NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        message TEXT NOT NULL
    );
    """,
)
