-- Tables: users, and three whose rows belong to a user each. Safe to apply twice.

CREATE TABLE IF NOT EXISTS users (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email       text NOT NULL UNIQUE,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS contacts (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id     uuid NOT NULL,
    name        text NOT NULL,
    email       text,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS tickets (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id     uuid NOT NULL,
    subject     text NOT NULL,
    status      text NOT NULL DEFAULT 'open',
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS addresses (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id     uuid NOT NULL,
    street      text NOT NULL,
    city        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- An index led by user_id is what makes a policy cost nothing: the policy is one more WHERE.
CREATE INDEX IF NOT EXISTS contacts_user_id_idx ON contacts (user_id, created_at);
CREATE INDEX IF NOT EXISTS tickets_user_id_idx ON tickets (user_id, created_at);
CREATE INDEX IF NOT EXISTS addresses_user_id_idx ON addresses (user_id, created_at);

GRANT USAGE ON SCHEMA public TO crm_user, crm_admin;

-- No TRUNCATE: it would empty a table for every user, whatever the policies say.
GRANT SELECT, INSERT, UPDATE, DELETE ON contacts, tickets, addresses TO crm_user, crm_admin;

-- Users are created, deleted and looked up by the administrator; each sees and changes their own.
GRANT SELECT, INSERT, UPDATE, DELETE ON users TO crm_admin;
REVOKE INSERT, UPDATE, DELETE ON users FROM crm_user;
GRANT SELECT, UPDATE (email) ON users TO crm_user;
