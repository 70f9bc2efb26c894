-- The journal of one study that several workers share; the twin of migrations/sqlite. Names are looked up in the
-- study's own schema (search_path). A landed migration is never edited; a change is a new file.

-- The study's facts, written once.
CREATE TABLE study (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    meta TEXT NOT NULL                                -- JSON: StudyMeta
);

-- Trials begun so far: numbers without gaps, also when two workers begin one at the same time.
CREATE TABLE counter (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    trials INTEGER NOT NULL CHECK (trials >= 0)
);
INSERT INTO counter (id, trials) VALUES (1, 0);

-- A row a trial: inserted when it begins, closed once. Text where SQLite has text, so that a replayed study reads the
-- very numbers that were written.
CREATE TABLE trial (
    number     INTEGER PRIMARY KEY CHECK (number >= 1),
    phase      TEXT NOT NULL,
    config     TEXT NOT NULL,                         -- JSON: name -> value
    round      INTEGER,
    host       TEXT NOT NULL,
    started_at TEXT NOT NULL,                         -- RFC 3339, UTC
    outcome    TEXT,                                  -- JSON: Outcome; NULL while it is open
    seconds    DOUBLE PRECISION NOT NULL DEFAULT 0,
    binding    TEXT,
    worker     TEXT NOT NULL,                         -- the process that holds it, by its advisory lock
    claim      TEXT NOT NULL UNIQUE,                  -- of the one call that began it: repeated, it begins nothing
    again      BOOLEAN NOT NULL DEFAULT false,        -- given back, and not yet asked again
    repeats    INTEGER UNIQUE REFERENCES trial (number) -- the trial that was given back, asked again once
);

-- The few rows that every ask looks for.
CREATE INDEX trial_open ON trial (number) WHERE outcome IS NULL;
CREATE INDEX trial_again ON trial (number) WHERE again;

-- A row a finished probe, appended.
CREATE TABLE probe (
    trial      INTEGER NOT NULL REFERENCES trial (number),
    number     INTEGER NOT NULL CHECK (number >= 1),
    data       TEXT NOT NULL,                         -- JSON: Probe
    histograms BYTEA,
    PRIMARY KEY (trial, number)
);

-- Intents and outcomes of side effects, drift, the decision: appended.
CREATE TABLE event (
    id     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     TEXT NOT NULL,                             -- RFC 3339, UTC
    kind   TEXT NOT NULL,
    detail TEXT NOT NULL,                             -- JSON
    claim  TEXT NOT NULL UNIQUE                       -- of the one call that wrote it
);

CREATE INDEX event_by_kind ON event (kind, id);
