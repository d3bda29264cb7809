-- What people decide about dead letters, and what becomes of it. Their SQL lives in crates/common/src/campaigns.
--
-- A campaign is a decision over a selection of dead letters, written in one transaction and worked off by the running
-- service: who decided can go away, and a crash of either loses nothing.
-- kind: redrive (try again), skip (done by hand: counts as taken effect), discard (shall never take effect).
-- state: running, paused, done, cancelled, stopped (by the loop guard; `why` says it).
CREATE TABLE campaigns (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer    text        NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('redrive', 'skip', 'discard')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    operator    text        NOT NULL CHECK (operator <> ''),
    reason      text,
    filter      jsonb       NOT NULL,
    transform   jsonb,
    rate        double precision NOT NULL CHECK (rate > 0),
    returns_max int         NOT NULL,
    state       text        NOT NULL DEFAULT 'running'
                CHECK (state IN ('running', 'paused', 'done', 'cancelled', 'stopped')),
    why         text,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    -- Up to when its rate has been used.
    paced_at    timestamptz NOT NULL DEFAULT now(),
    CHECK (kind = 'redrive' OR reason <> '')
);
CREATE INDEX campaigns_running ON campaigns (consumer, id) WHERE state = 'running';

-- One dead letter of a campaign. `value` is what a transform made of it; the original stays in dead_letters.
-- outcome: pending, sent (on its way, or waiting for its next try), applied, died_again, skipped, discarded,
-- left_out (it could not be done; `detail` says why), cancelled.
CREATE TABLE campaign_records (
    campaign    bigint NOT NULL REFERENCES campaigns,
    dead_letter bigint NOT NULL REFERENCES dead_letters,
    outcome     text   NOT NULL DEFAULT 'pending',
    value       bytea,
    sent_at     timestamptz,
    settled_at  timestamptz,
    detail      text,
    PRIMARY KEY (campaign, dead_letter)
);
-- A dead letter is in one open campaign at most.
CREATE UNIQUE INDEX campaign_records_open ON campaign_records (dead_letter) WHERE outcome IN ('pending', 'sent');
CREATE INDEX campaign_records_pending ON campaign_records (campaign, dead_letter) WHERE outcome IN ('pending', 'sent');

-- Everything that happened to a dead letter: died, sent, applied, skipped, discarded.
CREATE TABLE dead_letter_history (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dead_letter bigint      NOT NULL REFERENCES dead_letters,
    at          timestamptz NOT NULL DEFAULT now(),
    what        text        NOT NULL,
    campaign    bigint REFERENCES campaigns,
    attempts    int,
    error_class text,
    error       text
);
CREATE INDEX dead_letter_history_of ON dead_letter_history (dead_letter, id);
INSERT INTO dead_letter_history (dead_letter, at, what, attempts, error_class, error)
SELECT id, dead_at, 'died', attempts, error_class, error FROM dead_letters ORDER BY id;

-- How often it was redriven, and how often it came back. status: dead, redriving, redriven, skipped, discarded.
ALTER TABLE dead_letters ADD COLUMN redrives int NOT NULL DEFAULT 0, ADD COLUMN returns int NOT NULL DEFAULT 0,
    ADD COLUMN last_campaign bigint REFERENCES campaigns;
CREATE INDEX dead_letters_undecided ON dead_letters (id) WHERE status = 'dead';
CREATE INDEX dead_letters_of_event ON dead_letters (consumer, event_id);

-- The campaign that a queued record is on its way for.
ALTER TABLE parked ADD COLUMN campaign bigint REFERENCES campaigns, ADD COLUMN dead_letter bigint REFERENCES dead_letters;
