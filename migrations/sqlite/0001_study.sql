-- The journal of one study. A landed migration is never edited; a change is a new file.
-- 0x4154554E ("ATUN") in the file header tells this database from anybody else's.
PRAGMA application_id = 1096045902;

-- The study's facts, written once.
CREATE TABLE study (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    meta TEXT NOT NULL                                -- JSON: StudyMeta
) STRICT;

-- A row a trial: inserted when it begins, closed once.
CREATE TABLE trial (
    number     INTEGER PRIMARY KEY CHECK (number >= 1),
    phase      TEXT NOT NULL,
    config     TEXT NOT NULL,                         -- JSON: name -> value
    round      INTEGER,
    host       TEXT NOT NULL,
    started_at TEXT NOT NULL,                         -- RFC 3339, UTC
    outcome    TEXT,                                  -- JSON: Outcome; NULL while it is open
    seconds    REAL NOT NULL DEFAULT 0,
    binding    TEXT
) STRICT;

-- A row a finished probe, appended.
CREATE TABLE probe (
    trial      INTEGER NOT NULL REFERENCES trial (number),
    number     INTEGER NOT NULL CHECK (number >= 1),
    data       TEXT NOT NULL,                         -- JSON: Probe
    histograms BLOB,                                  -- last, so that reading `data` never touches its pages
    PRIMARY KEY (trial, number)
) STRICT;

-- Intents and outcomes of side effects, drift, the decision: appended.
CREATE TABLE event (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     TEXT NOT NULL,                             -- RFC 3339, UTC
    kind   TEXT NOT NULL,
    detail TEXT NOT NULL                              -- JSON
) STRICT;

CREATE INDEX event_by_kind ON event (kind, id);
