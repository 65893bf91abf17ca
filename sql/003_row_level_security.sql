-- Policies: a row is seen and written by its user alone. Safe to apply twice.
-- ENABLE binds everyone but the owner, FORCE binds the owner too.
-- NULLIF: a setting that was once set reads '' and not NULL, and ''::uuid would raise.
-- The sub-select is evaluated once for a statement and not once for a row (an InitPlan).
-- https://www.postgresql.org/docs/18/ddl-rowsecurity.html

-- A user's own row: adding and removing users is not granted to crm_user at all.
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS user_isolation ON users;
CREATE POLICY user_isolation ON users FOR ALL
    USING (id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid))
    WITH CHECK (id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid));

ALTER TABLE contacts ENABLE ROW LEVEL SECURITY;
ALTER TABLE contacts FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS user_isolation ON contacts;
CREATE POLICY user_isolation ON contacts FOR ALL
    USING (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid))
    WITH CHECK (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid));

ALTER TABLE tickets ENABLE ROW LEVEL SECURITY;
ALTER TABLE tickets FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS user_isolation ON tickets;
CREATE POLICY user_isolation ON tickets FOR ALL
    USING (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid))
    WITH CHECK (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid));

ALTER TABLE addresses ENABLE ROW LEVEL SECURITY;
ALTER TABLE addresses FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS user_isolation ON addresses;
CREATE POLICY user_isolation ON addresses FOR ALL
    USING (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid))
    WITH CHECK (user_id = (SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid));
