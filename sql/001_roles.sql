-- Roles: one that row-level security binds, one that passes it by. Safe to apply twice.
-- No password stands here: whoever applies this sets them (ALTER ROLE ... PASSWORD).

-- crm_user: what the application logs in as. It owns nothing and cannot bypass RLS.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'crm_user') THEN
        CREATE ROLE crm_user;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'crm_admin') THEN
        CREATE ROLE crm_admin;
    END IF;
END
$$;

ALTER ROLE crm_user
    LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION;

-- crm_admin: migrations and cross-user batches, through admin_connection() alone.
ALTER ROLE crm_admin
    LOGIN NOSUPERUSER BYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION;

-- The administrator may take the application's role, which `python -m clients rls --prove` does.
GRANT crm_user TO crm_admin;
