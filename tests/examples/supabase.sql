-- Supabase's and PostgREST's shape: one login that owns nothing and inherits nothing takes the role
-- of its caller for each transaction, and policies read the claims of the caller's token.
-- https://docs.postgrest.org/en/stable/references/auth.html

CREATE ROLE anon NOLOGIN;
CREATE ROLE authenticated NOLOGIN;
CREATE ROLE service_role NOLOGIN BYPASSRLS;
CREATE ROLE authenticator LOGIN NOINHERIT PASSWORD 'secret';
GRANT anon, authenticated, service_role TO authenticator;

CREATE SCHEMA auth;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE
    AS $$ SELECT NULLIF(
        NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', '')::uuid $$;
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE
    AS $$ SELECT NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' $$;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;

CREATE TABLE profiles (id uuid PRIMARY KEY, name text NOT NULL);
CREATE TABLE notes (user_id uuid NOT NULL, writer text NOT NULL);
CREATE INDEX ON notes (user_id);

ALTER TABLE profiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE profiles FORCE ROW LEVEL SECURITY;
CREATE POLICY "Everybody reads profiles" ON profiles FOR SELECT TO anon, authenticated
    USING (true);
CREATE POLICY "Users change their own profile" ON profiles FOR UPDATE TO authenticated
    USING (id = (SELECT auth.uid())) WITH CHECK (id = (SELECT auth.uid()));

ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY "Users see and change their own notes" ON notes FOR ALL TO authenticated
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));

GRANT SELECT ON profiles TO anon, authenticated;
GRANT UPDATE ON profiles TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON profiles, notes TO service_role;

INSERT INTO profiles VALUES
    ('00000000-0000-4000-8000-000000000064', 'Ada'),
    ('00000000-0000-4000-8000-000000000065', 'Bob');
