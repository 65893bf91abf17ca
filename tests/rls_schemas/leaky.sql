-- Schemas that leak. After four dashes: the name, and the setting where it is another one. What begins with a colon is in schemas.py.

---- distinct
:docs
CREATE POLICY p ON docs USING (user_id IS DISTINCT FROM :me);
RESET ROLE;

---- not_eq
:docs
CREATE POLICY p ON docs USING (NOT (:mine));
RESET ROLE;

---- less
:docs
CREATE POLICY p ON docs USING (user_id < :me);
RESET ROLE;

---- like_any
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id LIKE '%' || (SELECT NULLIF(:setting, '')) || '%');
RESET ROLE;

---- like_prefix
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id LIKE (SELECT NULLIF(:setting, '')) || '%');
RESET ROLE;

---- prefix_fn
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (starts_with(user_id, (SELECT NULLIF(:setting, ''))));
RESET ROLE;

---- left8
:docs
CREATE POLICY p ON docs USING (left(user_id::text, 8) = left((SELECT :setting), 8));
RESET ROLE;

---- regex
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id ~ (SELECT NULLIF(:setting, '')));
RESET ROLE;

---- trim
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (trim(user_id) = trim((SELECT NULLIF(:setting, ''))));
RESET ROLE;

---- or_true
:docs
CREATE POLICY p ON docs USING (:mine OR true);
RESET ROLE;

---- or_notnull
:docs
CREATE POLICY p ON docs USING (:mine OR title IS NOT NULL);
RESET ROLE;

---- or_setting_notnull
:docs
CREATE POLICY p ON docs USING (:mine OR (SELECT :setting) IS NOT NULL);
RESET ROLE;

---- open_null
:docs
CREATE POLICY p ON docs USING (:mine OR :setting IS NULL);
RESET ROLE;

---- open_empty
:docs
CREATE POLICY p ON docs USING (:mine OR :setting = '');
RESET ROLE;

---- helper_true
CREATE FUNCTION public.can_see(u uuid) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT true $$;
:docs
CREATE POLICY p ON docs USING (can_see(user_id));
RESET ROLE;

---- helper_notnull
CREATE FUNCTION public.can_see(u uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN :setting IS NOT NULL; END $$;
:docs
CREATE POLICY p ON docs USING (can_see(user_id));
RESET ROLE;

---- helper_catch
CREATE FUNCTION public.can_see(u uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN u = :setting::uuid; EXCEPTION WHEN OTHERS THEN RETURN true; END $$;
:docs
CREATE POLICY p ON docs USING (can_see(user_id));
RESET ROLE;

---- uncorrelated
:members
:team_docs
CREATE POLICY p ON team_docs USING (EXISTS (SELECT FROM members m WHERE m.:mine));
RESET ROLE;

---- member_in_any
SET ROLE app_owner;
CREATE TABLE members (team_id int NOT NULL, user_id uuid NOT NULL, role text NOT NULL DEFAULT 'member', PRIMARY KEY (team_id, user_id));
CREATE INDEX ON members(user_id);
ALTER TABLE members ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT ON members TO app_user;
CREATE POLICY own ON members FOR SELECT USING (true);
:team_docs
CREATE POLICY p ON team_docs USING (team_id IN (SELECT m.team_id FROM members m));
RESET ROLE;

---- created_at
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine OR created_at < now() - interval '30 days');
RESET ROLE;

---- status_draft
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, status text NOT NULL DEFAULT 'draft');
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine OR status <> 'archived');
RESET ROLE;

---- null_owner_col
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, owner2 uuid);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (owner2 IS NULL OR owner2 = :me);
RESET ROLE;

---- admin_setting
:docs
CREATE POLICY p ON docs USING (:mine OR current_setting('app.role', true) = 'admin');
RESET ROLE;

---- admin_setting_in
:docs
CREATE POLICY p ON docs USING (:mine OR current_setting('app.is_admin', true)::boolean);
RESET ROLE;

---- case_null
:docs
CREATE POLICY p ON docs USING (CASE WHEN :setting IS NULL THEN true ELSE :mine END);
RESET ROLE;

---- case_flag
:docs
CREATE POLICY p ON docs USING (CASE WHEN title LIKE 'x%' THEN :mine ELSE true END);
RESET ROLE;

---- or_session_user
:docs
CREATE POLICY p ON docs USING (:mine OR session_user = 'app_user');
RESET ROLE;

---- pg_has_role
:docs
CREATE POLICY p ON docs USING (:mine OR pg_has_role('app_user', 'MEMBER'));
RESET ROLE;

---- magic_user_in
:docs
CREATE POLICY p ON docs USING (:mine OR :me IN ('00000000-0000-0000-0000-000000000001'::uuid, '00000000-0000-0000-0000-000000000002'::uuid));
RESET ROLE;

---- xor
:docs
CREATE POLICY p ON docs USING ((:mine) = (title = 'x'));
RESET ROLE;

---- array_overlap_all
:docs
CREATE POLICY p ON docs USING (:me <> ALL (ARRAY[user_id]));
RESET ROLE;

---- tenant_only
CREATE TABLE x();
DROP TABLE x;
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, tenant_id bigint NOT NULL DEFAULT 1);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')::bigint));
RESET ROLE;

---- md5_short
:docs
CREATE POLICY p ON docs USING (substr(md5(user_id::text),1,1) = substr(md5((SELECT :setting)),1,1));
RESET ROLE;

---- int_mod
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id int NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id % 10 = (SELECT NULLIF(:setting, '')::int) % 10);
RESET ROLE;

---- int_ge app.tenant_id
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id bigint NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id <= (SELECT NULLIF(current_setting('app.tenant_id', true), '')::bigint));
RESET ROLE;

---- int_abs app.tenant_id
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id bigint NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (abs(user_id) = abs((SELECT NULLIF(current_setting('app.tenant_id', true), '')::bigint)));
RESET ROLE;

---- int_div app.tenant_id
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id bigint NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id / 10 = (SELECT NULLIF(current_setting('app.tenant_id', true), '')::bigint) / 10);
RESET ROLE;

---- case_fold_ilike app.tenant
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id ILIKE (SELECT NULLIF(current_setting('app.tenant', true), '')));
RESET ROLE;

---- position
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (position((SELECT NULLIF(:setting, '')) in user_id) > 0);
RESET ROLE;

---- position_list
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (position(user_id in (SELECT :setting)) > 0);
RESET ROLE;

---- coalesce_nil
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (COALESCE(user_id, :me) = :me);
RESET ROLE;

---- is_not_false
:docs
CREATE POLICY p ON docs USING ((:mine) IS NOT FALSE);
RESET ROLE;

---- isnt_true
:docs
CREATE POLICY p ON docs USING ((:mine) IS NOT TRUE);
RESET ROLE;

---- nullif_both
:docs
CREATE POLICY p ON docs USING (NULLIF(user_id, :me) IS NULL OR title <> '');
RESET ROLE;

---- array_empty
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, readers uuid[] NOT NULL DEFAULT '{}');
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (readers = '{}' OR :me = ANY (readers) OR :mine);
RESET ROLE;

---- update_check_missing
:docs
CREATE POLICY s ON docs FOR SELECT USING (:mine);
CREATE POLICY u ON docs FOR UPDATE USING (:mine) WITH CHECK (true);
RESET ROLE;

---- update_using_true
:docs
CREATE POLICY s ON docs FOR SELECT USING (:mine);
CREATE POLICY u ON docs FOR UPDATE USING (true) WITH CHECK (:mine);
RESET ROLE;

---- insert_anybody
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY i ON docs FOR INSERT WITH CHECK (user_id IS NOT NULL);
RESET ROLE;

---- insert_status
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY i ON docs FOR INSERT WITH CHECK (title <> '');
RESET ROLE;

---- delete_admin_flag
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY d ON docs FOR DELETE USING (title = 'trash');
RESET ROLE;

---- public_writable
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, is_public boolean NOT NULL DEFAULT false);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine OR is_public);
RESET ROLE;

---- restrictive_wrong
:docs
CREATE POLICY a ON docs USING (true);
CREATE POLICY r ON docs AS RESTRICTIVE USING (title <> '');
RESET ROLE;

---- restrictive_other_role
:docs
CREATE POLICY a ON docs USING (true);
CREATE POLICY r ON docs AS RESTRICTIVE TO app_admin USING (:mine);
RESET ROLE;

---- restrictive_or
:docs
CREATE POLICY a ON docs USING (true);
CREATE POLICY r ON docs AS RESTRICTIVE USING (:mine OR title IS NOT NULL);
RESET ROLE;

---- permissive_readonly_true
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY r ON docs FOR SELECT USING (true);
RESET ROLE;

---- public_role_policy
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY r ON docs TO PUBLIC USING (length(title) > 0);
RESET ROLE;

---- tenant_move
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, tenant_id bigint NOT NULL DEFAULT 1);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine) WITH CHECK (true);
RESET ROLE;

---- immutable_sql
CREATE FUNCTION public.uid() RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT :id $$;
:docs
CREATE POLICY p ON docs USING (user_id = uid());
RESET ROLE;

---- immutable_chain
CREATE FUNCTION public.uid0() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT :id $$;
CREATE FUNCTION public.uid() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN uid0(); END $$;
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT uid()));
RESET ROLE;

---- immutable_table
:members
:team_docs
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT EXISTS (SELECT FROM members m WHERE m.team_id = t AND m.user_id = :id) $$;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- definer_super
:sound_docs
CREATE FUNCTION public.f() RETURNS SETOF docs LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT * FROM docs $$;

---- definer_plpgsql_arg
:sound_docs
CREATE FUNCTION public.f(d uuid) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$ DECLARE t text; BEGIN SELECT title INTO t FROM docs WHERE id = d; RETURN t; END $$;

---- definer_dynamic
:sound_docs
CREATE FUNCTION public.f(t text) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$ DECLARE r text; BEGIN EXECUTE format('SELECT string_agg(title, '','') FROM %I', t) INTO r; RETURN r; END $$;

---- definer_delete
:sound_docs
CREATE FUNCTION public.f(d uuid) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ DELETE FROM docs WHERE id = d $$;

---- definer_proc
:sound_docs
CREATE PROCEDURE public.f(d uuid) LANGUAGE sql SECURITY DEFINER AS $$ DELETE FROM docs WHERE id = d $$;

---- definer_sets
:sound_docs
CREATE FUNCTION public.login_as(u uuid) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM set_config('app.current_user_id', u::text, false); END $$;

---- invoker_sets
:sound_docs
CREATE FUNCTION public.login_as(u uuid) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.set_config('app.current_user_id', u::text, true); END $$;

---- execute_sets
:sound_docs
CREATE FUNCTION public.login_as(u text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('SET app.current_user_id = %L', u); END $$;

---- set_body
:sound_docs
CREATE FUNCTION public.login_as() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET LOCAL app.current_user_id = '11111111-1111-4111-8111-111111111111'; END $$;

---- proc_set_clause
:sound_docs
CREATE PROCEDURE public.f() LANGUAGE sql SET app.current_user_id = '11111111-1111-4111-8111-111111111111' AS $$ DELETE FROM docs $$;

---- row_security_off
:sound_docs
CREATE FUNCTION public.f() RETURNS SETOF docs LANGUAGE sql STABLE SECURITY DEFINER SET row_security = off AS $$ SELECT * FROM docs $$;

---- leakproof_sql
:sound_docs
CREATE FUNCTION public.lp(t text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE LEAKPROOF AS $$ BEGIN RETURN 1/(length(t)-11) > 0; END $$;

---- leakproof_op
:sound_docs
CREATE FUNCTION public.lp(a text, b text) RETURNS boolean LANGUAGE plpgsql LEAKPROOF AS $$ BEGIN RAISE NOTICE '%', a; RETURN true; END $$;
CREATE OPERATOR public.<<< (LEFTARG = text, RIGHTARG = text, FUNCTION = public.lp);

---- aggregate
:sound_docs
CREATE FUNCTION public.st(s bigint, x int) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT count(*) FROM docs $$;
CREATE AGGREGATE public.ag(int) (SFUNC = public.st, STYPE = bigint, INITCOND = '0');

---- query_to_xml
:sound_docs
CREATE FUNCTION public.f(q text) RETURNS xml LANGUAGE sql SECURITY DEFINER AS $$ SELECT query_to_xml(q, true, false, '') $$;

---- table_to_xml
:sound_docs
CREATE FUNCTION public.f() RETURNS xml LANGUAGE sql SECURITY DEFINER AS $$ SELECT table_to_xml('docs', true, false, '') $$;

---- definer_cursor
:sound_docs
CREATE FUNCTION public.f() RETURNS refcursor LANGUAGE plpgsql SECURITY DEFINER AS $$ DECLARE c refcursor := 'c'; BEGIN OPEN c FOR SELECT * FROM docs; RETURN c; END $$;

---- definer_via_invoker
:sound_docs
CREATE FUNCTION public.g() RETURNS SETOF docs LANGUAGE sql AS $$ SELECT * FROM docs $$;
CREATE FUNCTION public.f() RETURNS SETOF docs LANGUAGE sql SECURITY DEFINER AS $$ SELECT * FROM g() $$;

---- definer_arg_user
:sound_docs
CREATE FUNCTION public.f(u uuid) RETURNS SETOF docs LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT * FROM docs WHERE user_id = u $$;

---- definer_other_schema
:sound_docs
CREATE SCHEMA private;
GRANT USAGE ON SCHEMA private TO PUBLIC;
CREATE FUNCTION private.f() RETURNS SETOF docs LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT * FROM public.docs $$;

---- view_plain
:sound_docs
CREATE VIEW v AS SELECT title FROM docs;
GRANT SELECT ON v TO app_user;

---- view_barrier
:sound_docs
CREATE VIEW v WITH (security_barrier) AS SELECT title FROM docs;
GRANT SELECT ON v TO app_user;

---- view_not_forced
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE VIEW v AS SELECT title FROM docs;
GRANT SELECT ON v TO app_user;
RESET ROLE;

---- view_private_schema
CREATE SCHEMA private;
GRANT ALL ON SCHEMA private TO app_owner;
SET ROLE app_owner;
CREATE TABLE private.docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON private.docs (user_id);
ALTER TABLE private.docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE private.docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON private.docs TO app_user;
CREATE POLICY p ON private.docs USING (:mine);
RESET ROLE;
CREATE VIEW v AS SELECT title FROM private.docs;
GRANT SELECT ON v TO app_user;

---- view_update
:sound_docs
CREATE VIEW v AS SELECT * FROM docs;
GRANT UPDATE, DELETE ON v TO app_user;

---- view_count
:sound_docs
CREATE VIEW v AS SELECT count(*) AS n FROM docs;
GRANT SELECT ON v TO app_user;

---- view_group
:sound_docs
CREATE VIEW v AS SELECT user_id, count(*) AS n FROM docs GROUP BY 1;
GRANT SELECT ON v TO app_user;

---- view_join
:sound_docs
CREATE VIEW v AS SELECT a.title FROM docs a JOIN docs b USING (id);
GRANT SELECT ON v TO app_user;

---- view_invoker_false
:sound_docs
CREATE VIEW v WITH (security_invoker = false) AS SELECT title FROM docs;
GRANT SELECT ON v TO app_user;

---- view_open_own_policy
:docs
CREATE POLICY p ON docs TO app_user USING (:mine);
CREATE POLICY o ON docs FOR SELECT TO app_owner USING (true);
CREATE VIEW v AS SELECT title FROM docs;
GRANT SELECT ON v TO app_user;
RESET ROLE;

---- view_function
:sound_docs
CREATE FUNCTION public.f() RETURNS SETOF docs LANGUAGE sql SECURITY DEFINER AS $$ SELECT * FROM docs $$;
REVOKE EXECUTE ON FUNCTION f() FROM PUBLIC;
CREATE VIEW v AS SELECT title FROM f();
GRANT SELECT ON v TO app_user;

---- matview
:sound_docs
CREATE MATERIALIZED VIEW v AS SELECT title FROM docs;
GRANT SELECT ON v TO app_user;

---- matview_counts
:sound_docs
CREATE MATERIALIZED VIEW v AS SELECT user_id, count(*) FROM docs GROUP BY 1;
GRANT SELECT ON v TO app_user;

---- view_over_matview
:sound_docs
CREATE MATERIALIZED VIEW m AS SELECT title FROM docs;
CREATE VIEW v WITH (security_invoker=false) AS SELECT * FROM m;
GRANT SELECT ON v TO app_user;

---- child_no_owner
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE lines (id serial PRIMARY KEY, doc_id uuid REFERENCES docs, body text);
GRANT SELECT ON lines TO app_user;
RESET ROLE;

---- child_rls_true
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE lines (id serial PRIMARY KEY, doc_id uuid REFERENCES docs, body text);
ALTER TABLE lines ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON lines USING (true);
GRANT SELECT ON lines TO app_user;
RESET ROLE;

---- child_uncorr
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE lines (id serial PRIMARY KEY, doc_id uuid REFERENCES docs, body text);
ALTER TABLE lines ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON lines USING (EXISTS (SELECT FROM docs d WHERE d.id = d.id));
GRANT SELECT ON lines TO app_user;
RESET ROLE;

---- inherit_child
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE docs2 () INHERITS (docs);
GRANT SELECT ON docs2 TO app_user;
RESET ROLE;

---- history
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE docs_history (at timestamptz DEFAULT now(), old jsonb);
GRANT SELECT ON docs_history TO app_user;
RESET ROLE;

---- audit_trigger
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE changes (at timestamptz DEFAULT now(), data jsonb);
GRANT SELECT, INSERT ON changes TO app_user;
CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO changes (data) VALUES (to_jsonb(NEW)); RETURN NEW; END $$;
CREATE TRIGGER t AFTER INSERT ON docs FOR EACH ROW EXECUTE FUNCTION log();
RESET ROLE;

---- backup_table
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE docs_backup AS SELECT * FROM docs;
GRANT SELECT ON docs_backup TO app_user;
RESET ROLE;

---- copy_like
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE archive (LIKE docs);
GRANT SELECT ON archive TO app_user;
RESET ROLE;

---- owner_email
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE notes (id int, owner_id uuid, body text);
GRANT SELECT ON notes TO app_user;
RESET ROLE;

---- column_grant
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE notes (id int, user_id uuid, body text);
GRANT SELECT (body) ON notes TO app_user;
RESET ROLE;

---- users_table
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE users (id uuid PRIMARY KEY, email text);
ALTER TABLE docs ADD FOREIGN KEY (user_id) REFERENCES users;
GRANT SELECT ON users TO app_user;
RESET ROLE;

---- sequence
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, n serial);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;
GRANT SELECT, USAGE ON docs_n_seq TO app_user;

---- lo
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, scan oid);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- foreign
:sound_docs
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE far (user_id uuid, body text) SERVER far;
GRANT SELECT ON far TO app_user;

---- publication
:sound_docs
CREATE PUBLICATION pub FOR ALL TABLES;
ALTER ROLE app_user REPLICATION;

---- unique_email
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, email text UNIQUE);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- unique_index_expr
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, email text);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;
CREATE UNIQUE INDEX ON docs (lower(email));

---- unique_partial
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, email text);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;
CREATE UNIQUE INDEX ON docs (email) WHERE email IS NOT NULL;

---- pk_natural
SET ROLE app_owner;
CREATE TABLE docs (slug text PRIMARY KEY, user_id uuid NOT NULL, title text);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- exclude_range
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, during tsrange, EXCLUDE USING gist (during WITH &&));
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- fk_cascade
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE comments (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, doc_id uuid NOT NULL REFERENCES docs ON DELETE CASCADE);
CREATE INDEX ON comments (user_id);
ALTER TABLE comments ENABLE ROW LEVEL SECURITY;
ALTER TABLE comments FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON comments TO app_user;
CREATE POLICY p ON comments USING (:mine);
RESET ROLE;

---- fk_self
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, parent uuid REFERENCES docs);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- fk_update_cascade
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE comments (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, doc_id uuid NOT NULL REFERENCES docs ON UPDATE CASCADE ON DELETE SET NULL);
CREATE INDEX ON comments (user_id);
ALTER TABLE comments ENABLE ROW LEVEL SECURITY;
ALTER TABLE comments FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON comments TO app_user;
CREATE POLICY p ON comments USING (:mine);
RESET ROLE;

---- db_default
:sound_docs
ALTER DATABASE rls_schemas SET app.current_user_id = '11111111-1111-4111-8111-111111111111';

---- role_db_default
:sound_docs
ALTER ROLE app_user IN DATABASE rls_schemas SET app.current_user_id = '11111111-1111-4111-8111-111111111111';

---- trigger_definer
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE stats (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON stats (user_id);
ALTER TABLE stats ENABLE ROW LEVEL SECURITY;
ALTER TABLE stats FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON stats TO app_user;
CREATE POLICY p ON stats USING (:mine);
RESET ROLE;
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN UPDATE stats SET title = NEW.title; RETURN NEW; END $$;
CREATE TRIGGER t AFTER INSERT ON docs FOR EACH ROW EXECUTE FUNCTION tf();

---- trigger_copies
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE stats (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON stats (user_id);
ALTER TABLE stats ENABLE ROW LEVEL SECURITY;
ALTER TABLE stats FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON stats TO app_user;
CREATE POLICY p ON stats USING (:mine);
RESET ROLE;
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN NEW.title := (SELECT max(title) FROM docs); RETURN NEW; END $$;
CREATE TRIGGER t BEFORE INSERT ON docs FOR EACH ROW EXECUTE FUNCTION tf();

---- trigger_chown
:sound_docs
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN DELETE FROM docs WHERE title = NEW.title AND id <> NEW.id; RETURN NEW; END $$;
CREATE TRIGGER t AFTER INSERT ON docs FOR EACH ROW EXECUTE FUNCTION tf();

---- notify_var
:sound_docs
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE p text; BEGIN p := NEW.title; PERFORM pg_notify('c', p); RETURN NEW; END $$;
CREATE TRIGGER t AFTER INSERT ON docs FOR EACH ROW EXECUTE FUNCTION tf();

---- notify_json
:sound_docs
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('c', json_build_object('op', TG_OP, 'title', NEW.title)::text); RETURN NULL; END $$;
CREATE TRIGGER t AFTER INSERT ON docs FOR EACH ROW EXECUTE FUNCTION tf();

---- rule_insert_log
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE log (who uuid, what text);
GRANT SELECT ON log TO app_user;
CREATE RULE r AS ON INSERT TO docs DO ALSO INSERT INTO log VALUES (NEW.user_id, NEW.title);
RESET ROLE;

---- rule_view_instead
:sound_docs
CREATE VIEW v WITH (security_invoker) AS SELECT id, title FROM docs;
GRANT SELECT, UPDATE ON v TO app_user;
CREATE RULE r AS ON UPDATE TO v DO INSTEAD UPDATE docs SET title = NEW.title;

---- instead_trigger
:sound_docs
CREATE VIEW v WITH (security_invoker) AS SELECT id, title FROM docs;
GRANT SELECT, UPDATE, DELETE ON v TO app_user;
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN DELETE FROM docs WHERE title = OLD.title; RETURN OLD; END $$;
CREATE TRIGGER t INSTEAD OF DELETE ON v FOR EACH ROW EXECUTE FUNCTION tf();

---- set_role_lax
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY st ON docs TO case_set USING (true);
GRANT SELECT ON docs TO case_set;
RESET ROLE;

---- set_role_norls
:sound_docs
CREATE TABLE secret2 (id int);
GRANT SELECT ON docs TO case_set;
CREATE VIEW v AS SELECT title FROM docs;
GRANT SELECT ON v TO case_set;

---- trigger_priv
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- owns_table
:sound_docs
ALTER TABLE docs NO FORCE ROW LEVEL SECURITY;
GRANT app_owner TO app_user;

---- enrol_insert
SET ROLE app_owner;
CREATE TABLE members (team_id int NOT NULL, user_id uuid NOT NULL, role text NOT NULL DEFAULT 'member', PRIMARY KEY (team_id, user_id));
CREATE INDEX ON members(user_id);
ALTER TABLE members ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON members TO app_user;
CREATE POLICY own ON members USING (:mine);
:team_docs
CREATE POLICY p ON team_docs USING (EXISTS (SELECT FROM members m WHERE m.team_id = team_docs.team_id AND m.:mine));
RESET ROLE;

---- enrol_update
SET ROLE app_owner;
CREATE TABLE members (team_id int NOT NULL, user_id uuid NOT NULL, role text NOT NULL DEFAULT 'member', PRIMARY KEY (team_id, user_id));
CREATE INDEX ON members(user_id);
ALTER TABLE members ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, UPDATE ON members TO app_user;
CREATE POLICY own ON members USING (:mine);
:team_docs
CREATE POLICY p ON team_docs USING (EXISTS (SELECT FROM members m WHERE m.team_id = team_docs.team_id AND m.:mine));
RESET ROLE;

---- enrol_no_rls
SET ROLE app_owner;
CREATE TABLE members (team_id int NOT NULL, user_id uuid NOT NULL, role text NOT NULL DEFAULT 'member', PRIMARY KEY (team_id, user_id));
CREATE INDEX ON members(user_id);
ALTER TABLE members ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON members TO app_user;
CREATE POLICY own ON members USING (:mine);
:team_docs
CREATE POLICY p ON team_docs USING (EXISTS (SELECT FROM members m WHERE m.team_id = team_docs.team_id AND m.:mine));
RESET ROLE;
ALTER TABLE members DISABLE ROW LEVEL SECURITY;
DROP POLICY own ON members;

---- enrol_role
SET ROLE app_owner;
CREATE TABLE members (team_id int NOT NULL, user_id uuid NOT NULL, role text NOT NULL DEFAULT 'member', PRIMARY KEY (team_id, user_id));
CREATE INDEX ON members(user_id);
ALTER TABLE members ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, UPDATE ON members TO app_user;
CREATE POLICY own ON members USING (:mine);
:team_docs
CREATE POLICY p ON team_docs USING (EXISTS (SELECT FROM members m WHERE m.:mine AND m.role = 'admin'));
RESET ROLE;

---- share_insert
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE shares (doc_id uuid, user_id uuid);
CREATE INDEX ON shares(user_id);
ALTER TABLE shares ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON shares TO app_user;
CREATE POLICY p ON shares USING (:mine);
CREATE POLICY shared ON docs FOR SELECT USING (EXISTS (SELECT FROM shares s WHERE s.doc_id = docs.id AND s.:mine));
RESET ROLE;

---- profile_team
SET ROLE app_owner;
CREATE TABLE people (id uuid PRIMARY KEY, team int);
ALTER TABLE people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, UPDATE ON people TO app_user;
CREATE POLICY me ON people USING (id = :me);
CREATE TABLE team_docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), team int NOT NULL, title text NOT NULL);
CREATE INDEX ON team_docs(team);
ALTER TABLE team_docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT ON team_docs TO app_user;
CREATE POLICY p ON team_docs USING (team = (SELECT p.team FROM people p WHERE p.id = :me));
RESET ROLE;

---- inl_all_teams
:members
:team_docs
RESET ROLE;
CREATE FUNCTION my_teams() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT team_id FROM members $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (team_id IN (SELECT my_teams()));
RESET ROLE;

---- inl_uncorr
:members
:team_docs
RESET ROLE;
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT EXISTS (SELECT FROM members WHERE user_id = :id) $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_anymember
:members
:team_docs
RESET ROLE;
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT EXISTS (SELECT FROM public.members m WHERE m.team_id = t) $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_role
:members
:team_docs
RESET ROLE;
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT EXISTS (SELECT FROM members m WHERE m.team_id = t AND m.role = 'member') $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_plpgsql
:members
:team_docs
RESET ROLE;
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$ BEGIN RETURN EXISTS (SELECT FROM members m WHERE m.team_id = t OR m.user_id = :id); END $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_not_in
:members
:team_docs
RESET ROLE;
CREATE FUNCTION blocked() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT team_id FROM members WHERE user_id = :id $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (team_id NOT IN (SELECT blocked()));
RESET ROLE;

---- inl_nested
:members
:team_docs
RESET ROLE;
CREATE FUNCTION inner_teams() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT team_id FROM members $$;
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT t IN (SELECT inner_teams()) $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_array
:members
:team_docs
RESET ROLE;
CREATE FUNCTION teams() RETURNS int[] LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT array_agg(team_id) FROM members $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (team_id = ANY (teams()));
RESET ROLE;

---- inl_enrol
SET ROLE app_owner;
CREATE TABLE members (team_id int NOT NULL, user_id uuid NOT NULL, role text NOT NULL DEFAULT 'member', PRIMARY KEY (team_id, user_id));
CREATE INDEX ON members(user_id);
ALTER TABLE members ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON members TO app_user;
CREATE POLICY own ON members USING (:mine);
:team_docs
RESET ROLE;
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT EXISTS (SELECT FROM members m WHERE m.team_id = t AND m.user_id = :id) $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- def_arg_default
:sound_docs
CREATE FUNCTION public.f(who uuid DEFAULT NULL) RETURNS SETOF docs LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT * FROM docs WHERE user_id = coalesce(who, :id) $$;

---- def_search
:sound_docs
CREATE FUNCTION public.search(q text) RETURNS SETOF docs LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT * FROM docs WHERE title ILIKE '%' || q || '%' $$;

---- def_count
:sound_docs
CREATE FUNCTION public.total() RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT count(*) FROM docs $$;

---- def_insert_for
:sound_docs
CREATE FUNCTION public.add(u uuid, t text) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ INSERT INTO docs (user_id, title) VALUES (u, t) $$;

---- def_update
:sound_docs
CREATE FUNCTION public.ren(d uuid, t text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN UPDATE docs SET title = t WHERE id = d; END $$;

---- def_quoted
SET ROLE app_owner;
CREATE TABLE "My Docs" (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text);
CREATE INDEX ON "My Docs"(user_id);
ALTER TABLE "My Docs" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT ON "My Docs" TO app_user;
CREATE POLICY p ON "My Docs" USING (:mine);
RESET ROLE;
CREATE FUNCTION public.f() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT count(*) FROM "My Docs" $$;

---- def_owner_with_lax
:docs
CREATE POLICY p ON docs TO app_user USING (:mine);
CREATE POLICY o ON docs TO app_owner USING (true);
CREATE FUNCTION f() RETURNS SETOF docs LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT * FROM docs $$;
RESET ROLE;

---- two_settings_or
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, tenant_id bigint NOT NULL DEFAULT 1);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine OR tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')::bigint));
RESET ROLE;

---- email_owner_ilike app.email
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_email text NOT NULL, title text);
CREATE INDEX ON docs(owner_email);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT ON docs TO app_user;
CREATE POLICY p ON docs USING (owner_email ILIKE (SELECT NULLIF(current_setting('app.email', true), '')));
RESET ROLE;

---- bigint_text_prefix app.tenant_id
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id bigint NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id::text LIKE (SELECT NULLIF(current_setting('app.tenant_id', true), '')) || '%');
RESET ROLE;

---- jwt_role_admin request.jwt.claims
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid) OR (SELECT NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role') = 'authenticated');
RESET ROLE;

---- stmt_timeout_fn
CREATE FUNCTION public.is_admin() RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT coalesce(current_setting('app.admin', true), '') = 'yes' $$;
:docs
CREATE POLICY p ON docs USING (:mine OR is_admin());
RESET ROLE;

---- admin_table_open
SET ROLE app_owner;
CREATE TABLE admins (user_id uuid PRIMARY KEY);
GRANT SELECT, INSERT ON admins TO app_user;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine OR EXISTS (SELECT FROM admins a WHERE a.:mine));
RESET ROLE;

---- not_exists_block
SET ROLE app_owner;
CREATE TABLE blocks (user_id uuid PRIMARY KEY);
GRANT SELECT ON blocks TO app_user;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (NOT EXISTS (SELECT FROM blocks b WHERE b.:mine));
RESET ROLE;

---- team_or_null
:members
:team_docs
CREATE POLICY p ON team_docs USING (team_id IS NULL OR EXISTS (SELECT FROM members m WHERE m.team_id = team_docs.team_id AND m.:mine) OR title = 'handbook');
RESET ROLE;

---- row_security_guc
:sound_docs
CREATE FUNCTION public.f() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET row_security TO off AS $$ BEGIN RETURN (SELECT count(*) FROM docs); END $$;

---- inherit_parent_lax
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE base (user_id uuid, note text);
CREATE TABLE sub () INHERITS (base);
ALTER TABLE sub ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON sub USING (:mine);
GRANT SELECT ON base TO app_user;
RESET ROLE;

---- event_cols_upd
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY u2 ON docs FOR UPDATE USING (title = 'open') WITH CHECK (user_id IS NOT NULL);
RESET ROLE;

---- jsonb_nested
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), meta jsonb NOT NULL, title text NOT NULL);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING ((meta -> 'owner' ->> 'id') >= :setting);
RESET ROLE;

---- user_metadata request.jwt.claims
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid) OR (SELECT NULLIF(current_setting('request.jwt.claims', true), '')::jsonb -> 'user_metadata' ->> 'role') = 'admin');
RESET ROLE;

---- user_metadata_path request.jwt.claims
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid) OR (SELECT NULLIF(current_setting('request.jwt.claims', true), '')::jsonb #>> '{user_metadata,is_admin}') = 'true');
RESET ROLE;

---- user_metadata_tenant request.jwt.claims
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id text NOT NULL, user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (tenant_id = (SELECT NULLIF(current_setting('request.jwt.claims', true), '')::jsonb -> 'user_metadata' ->> 'tenant_id'));
RESET ROLE;

---- coalesce_person
:docs
CREATE POLICY p ON docs USING (user_id = COALESCE(:me, '3b7a3a52-6f0e-4b8c-9d51-0b6a4a7c2f11'::uuid));
RESET ROLE;

---- coalesce_person_text app.login
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (owner);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (owner = COALESCE(NULLIF(current_setting('app.login', true), ''), 'demo'));
RESET ROLE;

---- case_person
:docs
CREATE POLICY p ON docs USING (user_id = CASE WHEN COALESCE(:setting, '') = '' THEN '3b7a3a52-6f0e-4b8c-9d51-0b6a4a7c2f11'::uuid ELSE :setting::uuid END);
RESET ROLE;

---- hash_bucket
:docs
CREATE POLICY p ON docs USING (abs(hashtext(user_id::text)) % 64 = abs(hashtext(:setting)) % 64);
RESET ROLE;

---- md5_two
:docs
CREATE POLICY p ON docs USING (left(md5(user_id::text), 2) = left(md5((SELECT :setting)), 2));
RESET ROLE;

---- mail_domain app.email
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_email text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (owner_email);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (substring(owner_email from '@(.*)$') = substring(current_setting('app.email', true) from '@(.*)$'));
RESET ROLE;

---- mail_localpart app.email
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_email text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (owner_email);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (substring(owner_email from '^(.*)@') = substring(current_setting('app.email', true) from '^(.*)@'));
RESET ROLE;

---- mail_plus app.email
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_email text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (owner_email);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (replace(owner_email, '.', '') = replace(current_setting('app.email', true), '.', ''));
RESET ROLE;

---- bitmask app.tenant_id
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id int NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (tenant_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING ((tenant_id & 255) = (NULLIF(current_setting('app.tenant_id', true), '')::int & 255));
RESET ROLE;

---- bytea
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_key bytea NOT NULL, title text NOT NULL);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (length(owner_key) = length(decode(replace((SELECT NULLIF(:setting, '')), '-', ''), 'hex')));
RESET ROLE;

---- role_all_default
:sound_docs
ALTER ROLE ALL SET app.current_user_id = '11111111-1111-4111-8111-111111111111';

---- pg_settings_update
:sound_docs
CREATE FUNCTION public.become(u text) RETURNS void LANGUAGE sql AS $$ UPDATE pg_settings SET setting = u WHERE name = 'app.current_user_id' $$;

---- owns_helper
CREATE FUNCTION public.me() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT NULLIF(current_setting('app.current_user_id', true), '')::uuid $$;
ALTER FUNCTION public.me() OWNER TO app_user;
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT me()));
RESET ROLE;

---- dynamic_audit
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE changes (id bigint GENERATED ALWAYS AS IDENTITY, tab text, old jsonb);
GRANT SELECT ON changes TO app_user;
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN EXECUTE format('INSERT INTO %I (tab, old) VALUES ($1, $2)', 'changes') USING TG_TABLE_NAME, to_jsonb(OLD); RETURN NULL; END $$;
CREATE TRIGGER t AFTER UPDATE OR DELETE ON docs FOR EACH ROW EXECUTE FUNCTION note_change();
RESET ROLE;

---- export_table
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE docs_export AS SELECT id, title FROM docs;
GRANT SELECT ON docs_export TO app_user;
RESET ROLE;

---- app_metadata_ge request.jwt.claims
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id int NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (tenant_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (tenant_id >= (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb -> 'app_metadata' ->> 'tenant_id')::int));
RESET ROLE;

---- range_unknown
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner polygon NOT NULL, title text NOT NULL);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (owner IS NOT NULL AND :me IS NOT NULL);
RESET ROLE;

---- policy_via_view
SET ROLE app_owner; CREATE TABLE grants (doc_id uuid NOT NULL, user_id uuid NOT NULL, PRIMARY KEY (doc_id, user_id)); RESET ROLE;
CREATE VIEW doc_readers AS SELECT doc_id FROM grants;
GRANT SELECT ON doc_readers TO app_user;
SET ROLE app_owner; CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
RESET ROLE;
GRANT SELECT ON doc_readers TO app_owner;
CREATE POLICY p ON docs USING (:mine OR id IN (SELECT doc_id FROM doc_readers));

---- hash_helper
CREATE FUNCTION public.shard(u text) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT abs(hashtext(u)) % 100 $$;
:docs
CREATE POLICY p ON docs USING (shard(user_id::text) = shard(:setting));
RESET ROLE;

---- default_literal_fn
CREATE FUNCTION public.me() RETURNS uuid LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN current_setting('app.current_user_id')::uuid; EXCEPTION WHEN OTHERS THEN RETURN '3b7a3a52-6f0e-4b8c-9d51-0b6a4a7c2f11'::uuid; END $$;
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT me()));
RESET ROLE;

---- int_fallback app.tenant_id
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id bigint NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (tenant_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (tenant_id = COALESCE(NULLIF(current_setting('app.tenant_id', true), '')::bigint, 1));
RESET ROLE;
