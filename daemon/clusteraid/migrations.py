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
    """
    CREATE TABLE model (
        model TEXT PRIMARY KEY,                   -- normalised: "llama3.2:3b"
        digest BLOB NOT NULL,                     -- of the manifest; empty until the first node has it
        created_at REAL NOT NULL,
        created_by TEXT NOT NULL,
        limit_bytes_per_second INTEGER NOT NULL DEFAULT 0,
        chosen_count INTEGER NOT NULL DEFAULT 0   -- on how many nodes that the daemon chose; 0: somebody named them
    ) WITHOUT ROWID;

    CREATE TABLE placement (
        model TEXT NOT NULL,
        node_id TEXT NOT NULL,
        desired TEXT NOT NULL CHECK (desired IN ('present', 'absent')),
        PRIMARY KEY (model, node_id)
    ) WITHOUT ROWID;

    CREATE TABLE api_key (
        key_id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        secret_hash BLOB NOT NULL,                -- SHA-256 of the whole key
        models TEXT NOT NULL,                     -- a JSON list; empty: all
        created_at REAL NOT NULL,
        created_by TEXT NOT NULL,
        expires_at REAL NOT NULL DEFAULT 0,       -- 0: never
        requests_per_minute INTEGER NOT NULL DEFAULT 0,
        dashboard INTEGER NOT NULL DEFAULT 0,
        revoked INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE policy (
        node_id TEXT NOT NULL,                    -- empty: for all nodes of the class
        machine_class TEXT NOT NULL,              -- empty: for the node, whatever its class
        key TEXT NOT NULL,
        value TEXT NOT NULL,                      -- as people write it: "true", "80", "22:00-07:00"
        PRIMARY KEY (node_id, machine_class, key),
        CHECK ((node_id = '') <> (machine_class = ''))
    ) WITHOUT ROWID;
    """,
)
