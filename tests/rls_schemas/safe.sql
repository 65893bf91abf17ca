-- Schemas that do not leak. After four dashes: the name, and the setting where it is another one. What begins with a colon is in schemas.py.

---- in_setting
:docs
CREATE POLICY p ON docs USING (user_id IN :me);
RESET ROLE;

---- any_array
:docs
CREATE POLICY p ON docs USING (user_id = ANY (ARRAY:me));
RESET ROLE;

---- case_safe
:docs
CREATE POLICY p ON docs USING (CASE WHEN :setting IS NULL OR :setting = '' THEN false ELSE user_id = :setting::uuid END);
RESET ROLE;

---- row_in
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, tenant_id bigint NOT NULL DEFAULT 1);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING ((user_id, tenant_id) IN (SELECT :id, 1::bigint));
RESET ROLE;

---- row_eq_two
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, tenant_id bigint NOT NULL DEFAULT 1);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING ((user_id, tenant_id) = (:me, (SELECT NULLIF(current_setting('app.tenant_id', true), '')::bigint)));
RESET ROLE;

---- text_cmp
:docs
CREATE POLICY p ON docs USING (user_id::text = (SELECT NULLIF(:setting, '')));
RESET ROLE;

---- helper
CREATE FUNCTION public.uid() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT :id $$;
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT uid()));
RESET ROLE;

---- helper_row
CREATE FUNCTION public.own(u uuid) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT u = :id $$;
:docs
CREATE POLICY p ON docs USING (own(user_id));
RESET ROLE;

---- helper_plpgsql_default
CREATE FUNCTION public.uid() RETURNS uuid LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN :setting::uuid; EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$;
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT uid()));
RESET ROLE;

---- helper_coalesce_nil
:docs
CREATE POLICY p ON docs USING (user_id = COALESCE(:me, '00000000-0000-0000-0000-000000000000'::uuid));
RESET ROLE;

---- not_deleted_restrictive
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, deleted_at timestamptz);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY r ON docs AS RESTRICTIVE USING (deleted_at IS NULL);
RESET ROLE;

---- public_read
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, is_public boolean NOT NULL DEFAULT false);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY r ON docs FOR SELECT USING (is_public);
RESET ROLE;

---- published_read
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, status text NOT NULL DEFAULT 'draft');
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY r ON docs FOR SELECT USING (status = 'published');
RESET ROLE;

---- published_at
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, published_at timestamptz);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY r ON docs FOR SELECT USING (published_at <= now());
RESET ROLE;

---- visibility
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, visibility text NOT NULL DEFAULT 'private' CHECK (visibility IN ('private','public')));
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY r ON docs FOR SELECT USING (visibility = 'public');
RESET ROLE;

---- share_table
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE shares (doc_id uuid, user_id uuid);
CREATE INDEX ON shares(user_id);
ALTER TABLE shares ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT ON shares TO app_user;
CREATE POLICY p ON shares FOR SELECT USING (:mine);
CREATE POLICY shared ON docs FOR SELECT USING (EXISTS (SELECT FROM shares s WHERE s.doc_id = docs.id AND s.:mine));
RESET ROLE;

---- share_owner_grants
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE shares (doc_id uuid, owner_id uuid, user_id uuid);
CREATE INDEX ON shares(user_id);
ALTER TABLE docs ADD UNIQUE (user_id, id);
ALTER TABLE shares ADD FOREIGN KEY (owner_id, doc_id) REFERENCES docs (user_id, id);
ALTER TABLE shares ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON shares TO app_user;
CREATE POLICY r ON shares FOR SELECT USING (:mine OR owner_id = :me);
CREATE POLICY i ON shares FOR INSERT WITH CHECK (owner_id = :me);
CREATE POLICY shared ON docs FOR SELECT USING (EXISTS (SELECT FROM shares s WHERE s.doc_id = docs.id AND s.owner_id = docs.user_id AND s.:mine));
RESET ROLE;

---- child_exists
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE lines (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, doc_id uuid NOT NULL REFERENCES docs ON DELETE CASCADE, body text);
CREATE INDEX ON lines(doc_id);
ALTER TABLE lines ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON lines TO app_user;
CREATE POLICY p ON lines USING (EXISTS (SELECT FROM docs d WHERE d.id = lines.doc_id AND d.:mine));
RESET ROLE;

---- child_in
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE lines (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, doc_id uuid NOT NULL REFERENCES docs ON DELETE CASCADE, body text);
CREATE INDEX ON lines(doc_id);
ALTER TABLE lines ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON lines TO app_user;
CREATE POLICY p ON lines USING (doc_id IN (SELECT id FROM docs));
RESET ROLE;

---- text_owner app.user
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id = (SELECT NULLIF(current_setting('app.user', true), '')));
RESET ROLE;

---- int_owner app.user
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id int NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id = (SELECT NULLIF(current_setting('app.user', true), '')::int));
RESET ROLE;

---- int_helper app.user
CREATE FUNCTION public.uid() RETURNS int LANGUAGE sql STABLE AS $$ SELECT NULLIF(current_setting('app.user', true), '')::int $$;
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id int NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id = (SELECT uid()));
RESET ROLE;

---- team_in
:members
:team_docs
CREATE POLICY p ON team_docs USING (team_id IN (SELECT m.team_id FROM members m WHERE m.:mine));
RESET ROLE;

---- team_any_array
:members
:team_docs
CREATE POLICY p ON team_docs USING (team_id = ANY (ARRAY(SELECT m.team_id FROM members m WHERE m.:mine)));
RESET ROLE;

---- team_helper
:members
:team_docs
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT EXISTS (SELECT FROM members m WHERE m.team_id = t AND m.user_id = :id) $$;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- team_roles
:members
:team_docs
CREATE POLICY p ON team_docs USING (EXISTS (SELECT FROM members m WHERE m.team_id = team_docs.team_id AND m.:mine AND m.role IN ('admin','editor')));
RESET ROLE;

---- org_tree
SET ROLE app_owner;
CREATE TABLE orgs (id int PRIMARY KEY, name text);
GRANT SELECT ON orgs TO app_user;
CREATE TABLE members (team_id int NOT NULL, user_id uuid NOT NULL, role text NOT NULL DEFAULT 'member', PRIMARY KEY (team_id, user_id));
CREATE INDEX ON members(user_id);
ALTER TABLE members ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT ON members TO app_user;
CREATE POLICY own ON members FOR SELECT USING (:mine);
:team_docs
CREATE POLICY p ON team_docs USING (EXISTS (SELECT FROM members m JOIN orgs o ON o.id = m.team_id WHERE m.team_id = team_docs.team_id AND m.:mine));
RESET ROLE;

---- admin_flag_unwritable
SET ROLE app_owner;
CREATE TABLE users (id uuid PRIMARY KEY, name text, is_admin boolean NOT NULL DEFAULT false);
ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, UPDATE (name) ON users TO app_user;
CREATE POLICY me ON users USING (id = :me);
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY a ON docs FOR SELECT USING (EXISTS (SELECT FROM users u WHERE u.id = :me AND u.is_admin));
RESET ROLE;

---- jsonb_owner
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY, data jsonb NOT NULL);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT ON docs TO app_user;
CREATE POLICY p ON docs USING (data ->> 'owner' = (SELECT NULLIF(:setting, '')));
RESET ROLE;

---- domain_owner
SET ROLE app_owner;
CREATE DOMAIN uid AS uuid;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- varchar_owner app.user
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id varchar(40) NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id = (SELECT NULLIF(current_setting('app.user', true), '')));
RESET ROLE;

---- immutable_pure
CREATE FUNCTION public.norm(u uuid) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT u $$;
:docs
CREATE POLICY p ON docs USING (norm(user_id) = :me);
RESET ROLE;

---- immutable_pure_select
CREATE FUNCTION public.norm(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ DECLARE r text; BEGIN SELECT upper(t) INTO r; RETURN r; END $$;
:docs
CREATE POLICY p ON docs USING (:mine AND norm(title) <> '');
RESET ROLE;

---- view_invoker
:sound_docs
CREATE VIEW v WITH (security_invoker) AS SELECT title FROM docs;
GRANT SELECT ON v TO app_user;

---- view_ungranted
:sound_docs
CREATE VIEW v AS SELECT title FROM docs;

---- view_private
:sound_docs
CREATE SCHEMA private;
CREATE VIEW private.v AS SELECT title FROM docs;
GRANT SELECT ON private.v TO app_user;

---- view_filtered
:sound_docs
CREATE VIEW v WITH (security_barrier) AS SELECT title FROM docs WHERE user_id = :id;
GRANT SELECT ON v TO app_user;

---- view_other_tables
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE countries (code text PRIMARY KEY);
CREATE VIEW v AS SELECT * FROM countries;
GRANT SELECT ON v TO app_user;
RESET ROLE;

---- matview_ungranted
:sound_docs
CREATE MATERIALIZED VIEW m AS SELECT title FROM docs;

---- definer_revoked
:sound_docs
CREATE FUNCTION public.f() RETURNS SETOF docs LANGUAGE sql SECURITY DEFINER AS $$ SELECT * FROM docs $$;
REVOKE EXECUTE ON FUNCTION f() FROM PUBLIC;

---- definer_filtered
:sound_docs
CREATE FUNCTION public.f() RETURNS SETOF docs LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT * FROM docs WHERE user_id = :id $$;

---- definer_plpgsql_filtered
:sound_docs
CREATE FUNCTION public.f(d uuid) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$ DECLARE t text; BEGIN SELECT title INTO t FROM docs WHERE id = d AND user_id = :id; RETURN t; END $$;

---- definer_const
:sound_docs
CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS $$ SELECT 1 $$;

---- definer_other_table
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE countries (code text PRIMARY KEY);
GRANT SELECT ON countries TO app_user;
RESET ROLE;
CREATE FUNCTION public.f() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT count(*) FROM countries $$;

---- definer_private
:sound_docs
CREATE SCHEMA private;
CREATE FUNCTION private.f() RETURNS SETOF docs LANGUAGE sql SECURITY DEFINER AS $$ SELECT * FROM public.docs $$;

---- definer_comment
:sound_docs
CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS $$ SELECT 1 -- not from docs $$;

---- trigger_updated_at
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, updated_at timestamptz);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
CREATE TRIGGER t BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION tf();

---- trigger_sets_owner
:sound_docs
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.user_id := :id; RETURN NEW; END $$;
CREATE TRIGGER t BEFORE INSERT ON docs FOR EACH ROW EXECUTE FUNCTION tf();

---- audit_definer_insert
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE audit (at timestamptz, who uuid, what text);
RESET ROLE;
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN INSERT INTO audit VALUES (now(), NEW.user_id, NEW.title); RETURN NEW; END $$;
CREATE TRIGGER t AFTER INSERT ON docs FOR EACH ROW EXECUTE FUNCTION tf();

---- notify_key
:sound_docs
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('c', NEW.id::text); RETURN NEW; END $$;
CREATE TRIGGER t AFTER INSERT ON docs FOR EACH ROW EXECUTE FUNCTION tf();

---- notify_nothing
:sound_docs
CREATE FUNCTION public.tf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('c', ''); RETURN NEW; END $$;
CREATE TRIGGER t AFTER INSERT ON docs FOR EACH ROW EXECUTE FUNCTION tf();

---- unique_scoped
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, email text, UNIQUE (user_id, email));
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- fk_scoped
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, UNIQUE (user_id, id));
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE comments (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, doc_id uuid NOT NULL, FOREIGN KEY (user_id, doc_id) REFERENCES docs (user_id, id));
CREATE INDEX ON comments (user_id);
ALTER TABLE comments ENABLE ROW LEVEL SECURITY;
ALTER TABLE comments FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON comments TO app_user;
CREATE POLICY p ON comments USING (:mine);
RESET ROLE;

---- fk_lookup
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE countries (code text PRIMARY KEY);
ALTER TABLE docs ADD country text REFERENCES countries;
GRANT SELECT ON countries TO app_user;
RESET ROLE;

---- fk_users
SET ROLE app_owner;
CREATE TABLE users (id uuid PRIMARY KEY, name text);
ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT ON users TO app_user;
CREATE POLICY me ON users USING (id = :me);
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
ALTER TABLE docs ADD FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE;
RESET ROLE;

---- partition_ungranted
SET ROLE app_owner;
CREATE TABLE docs (user_id uuid NOT NULL, title text, region text) PARTITION BY LIST (region);
CREATE TABLE docs_eu PARTITION OF docs FOR VALUES IN ('eu');
CREATE INDEX ON docs(user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- sequence_usage
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, n serial);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;
GRANT USAGE ON docs_n_seq TO app_user;

---- other_role_default
:sound_docs
ALTER ROLE app_admin SET app.current_user_id = '11111111-1111-4111-8111-111111111111';

---- default_empty
:sound_docs
ALTER ROLE app_user SET app.current_user_id = '';

---- default_other
:sound_docs
ALTER ROLE app_user SET app.other = 'x';
ALTER ROLE app_user SET statement_timeout = '30s';

---- history_protected
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE docs_history (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs_history (user_id);
ALTER TABLE docs_history ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs_history FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs_history TO app_user;
CREATE POLICY p ON docs_history USING (:mine);
CREATE POLICY q ON docs_history USING (:mine);
RESET ROLE;

---- history_unreachable
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE docs_history (LIKE docs);
RESET ROLE;

---- set_role_nothing
:sound_docs
GRANT SELECT ON docs TO case_set;

---- private_table
:sound_docs
CREATE SCHEMA private;
CREATE TABLE private.notes (user_id uuid, body text);
GRANT SELECT ON private.notes TO app_user;

---- restrictive_all
:docs
CREATE POLICY a ON docs USING (true);
CREATE POLICY r ON docs AS RESTRICTIVE USING (:mine) WITH CHECK (:mine);
RESET ROLE;

---- restrictive_per_cmd
:docs
CREATE POLICY a ON docs USING (true);
CREATE POLICY rs ON docs AS RESTRICTIVE FOR SELECT USING (:mine);
CREATE POLICY ri ON docs AS RESTRICTIVE FOR INSERT WITH CHECK (:mine);
CREATE POLICY ru ON docs AS RESTRICTIVE FOR UPDATE USING (:mine);
CREATE POLICY rd ON docs AS RESTRICTIVE FOR DELETE USING (:mine);
RESET ROLE;

---- insert_only_log
SET ROLE app_owner;
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY, user_id uuid, what text);
ALTER TABLE events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT INSERT ON events TO app_user;
CREATE POLICY i ON events FOR INSERT WITH CHECK (:mine);
RESET ROLE;

---- anon_contact_form
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE messages (id bigint GENERATED ALWAYS AS IDENTITY, email text, body text);
ALTER TABLE messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT INSERT ON messages TO app_user;
CREATE POLICY i ON messages FOR INSERT WITH CHECK (true);
RESET ROLE;

---- time_limited
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine AND created_at > now() - interval '1 year');
RESET ROLE;

---- recursive_self
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, hidden boolean NOT NULL DEFAULT false);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine AND NOT hidden);
RESET ROLE;

---- assignee
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, assignee_id uuid);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY a ON docs FOR SELECT USING (assignee_id = :me);
CREATE INDEX ON docs(assignee_id);
RESET ROLE;

---- participants
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, participants uuid[] NOT NULL DEFAULT '{}');
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY a ON docs FOR SELECT USING (participants @> ARRAY[:me]);
RESET ROLE;

---- messages_two
SET ROLE app_owner;
CREATE TABLE messages (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), sender_id uuid NOT NULL, recipient_id uuid NOT NULL, body text);
CREATE INDEX ON messages(sender_id);
CREATE INDEX ON messages(recipient_id);
ALTER TABLE messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON messages TO app_user;
CREATE POLICY r ON messages FOR SELECT USING (:me IN (sender_id, recipient_id));
CREATE POLICY s ON messages FOR INSERT WITH CHECK (sender_id = :me);
RESET ROLE;

---- jwt_sub request.jwt.claims
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid));
RESET ROLE;

---- jwt_tenant request.jwt.claims
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, tenant_id bigint);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id = (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid) AND tenant_id = (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'tenant_id')::bigint));
RESET ROLE;

---- strict_missing
:docs
CREATE POLICY p ON docs USING (user_id = current_setting('app.current_user_id')::uuid);
RESET ROLE;

---- inl_my_teams
:members
:team_docs
RESET ROLE;
CREATE FUNCTION my_teams() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT team_id FROM members WHERE user_id = :id $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (team_id IN (SELECT my_teams()));
RESET ROLE;

---- inl_is_member
:members
:team_docs
RESET ROLE;
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT EXISTS (SELECT FROM public.members m WHERE m.team_id = t AND m.user_id = :id) $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_is_member_dollar
:members
:team_docs
RESET ROLE;
CREATE FUNCTION is_member(int) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT EXISTS (SELECT FROM public.members m WHERE m.team_id = $1 AND m.user_id = :id) $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_plpgsql
:members
:team_docs
RESET ROLE;
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$ BEGIN RETURN EXISTS (SELECT FROM members m WHERE m.team_id = t AND m.user_id = :id); END $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_into
:members
:team_docs
RESET ROLE;
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$ DECLARE ok boolean; BEGIN SELECT true INTO ok FROM members m WHERE m.team_id = t AND m.user_id = :id; RETURN ok; END $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_from
:members
:team_docs
RESET ROLE;
CREATE FUNCTION my_teams() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT team_id FROM members WHERE user_id = :id $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (EXISTS (SELECT FROM my_teams() t(id) WHERE t.id = team_docs.team_id));
RESET ROLE;

---- inl_array
:members
:team_docs
RESET ROLE;
CREATE FUNCTION teams() RETURNS int[] LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT array_agg(team_id) FROM members WHERE user_id = :id $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (team_id = ANY (teams()));
RESET ROLE;

---- inl_arg
:members
:team_docs
RESET ROLE;
CREATE FUNCTION is_member(t int, u uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT EXISTS (SELECT FROM members m WHERE m.team_id = t AND m.user_id = u) $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id, :me));
RESET ROLE;

---- inl_role
:members
:team_docs
RESET ROLE;
CREATE FUNCTION team_role(t int) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT m.role FROM members m WHERE m.team_id = t AND m.user_id = :id $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (team_role(team_id) IN ('admin', 'member'));
RESET ROLE;

---- inl_nested
:members
:team_docs
RESET ROLE;
CREATE FUNCTION me() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT :id $$;
CREATE FUNCTION my_teams() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER AS $$ SELECT team_id FROM members WHERE user_id = me() $$;
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT t IN (SELECT my_teams()) $$;
SET ROLE app_owner;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_invoker
:members
:team_docs
CREATE FUNCTION is_member(t int) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT EXISTS (SELECT FROM members m WHERE m.team_id = t) $$;
CREATE POLICY p ON team_docs USING (is_member(team_id));
RESET ROLE;

---- inl_own_table
SET ROLE app_owner;
CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- role_bound_writes
:docs
CREATE POLICY s ON docs FOR SELECT TO app_user USING (:mine);
CREATE POLICY w ON docs FOR INSERT TO app_user WITH CHECK (:mine);
RESET ROLE;

---- set_false
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY st ON docs TO case_set USING (true);
GRANT SELECT ON docs TO case_set;
RESET ROLE;
REVOKE case_set FROM app_user;
GRANT case_set TO app_user WITH INHERIT FALSE, SET FALSE;

---- generated_owner
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL DEFAULT :id, title text NOT NULL);
CREATE INDEX ON docs(user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT (title), UPDATE (title), DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
RESET ROLE;

---- enum_status
SET ROLE app_owner;
CREATE TYPE st AS ENUM ('draft','public');
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, status st NOT NULL DEFAULT 'draft');
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY r ON docs FOR SELECT USING (status = 'public');
RESET ROLE;

---- team_and_owner
:members
:team_docs
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, team_id int);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine);
CREATE POLICY t ON docs FOR SELECT USING (EXISTS (SELECT FROM members m WHERE m.team_id = docs.team_id AND m.:mine));
RESET ROLE;

---- team_write
:members
:team_docs
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, team_id int);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine OR EXISTS (SELECT FROM members m WHERE m.team_id = docs.team_id AND m.:mine));
RESET ROLE;

---- soft_delete_own
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL, deleted_at timestamptz);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine AND deleted_at IS NULL) WITH CHECK (:mine);
RESET ROLE;

---- friends
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE friends (user_id uuid, friend_id uuid, PRIMARY KEY (user_id, friend_id));
CREATE INDEX ON friends(friend_id);
ALTER TABLE friends ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, DELETE ON friends TO app_user;
CREATE POLICY m ON friends USING (:mine);
CREATE POLICY seen ON friends FOR SELECT USING (friend_id = :me);
CREATE POLICY f ON docs FOR SELECT USING (EXISTS (SELECT FROM friends f WHERE f.user_id = docs.user_id AND f.friend_id = :me));
RESET ROLE;

---- reference_table_rls
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE plans (id int PRIMARY KEY, name text);
ALTER TABLE plans ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT ON plans TO app_user;
CREATE POLICY r ON plans FOR SELECT USING (true);
ALTER TABLE docs ADD plan_id int REFERENCES plans;
RESET ROLE;

---- admin_policy_to_group
:docs
CREATE POLICY p ON docs TO app_user USING (:mine);
CREATE POLICY a ON docs TO app_admin USING (true);
GRANT ALL ON docs TO app_admin;
RESET ROLE;

---- anon_signup
SET ROLE app_owner;
CREATE TABLE users (id uuid PRIMARY KEY, email text);
ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE ON users TO app_user;
CREATE POLICY me ON users USING (id = :me);
RESET ROLE;

---- definer_invoker_view
:sound_docs
CREATE VIEW v WITH (security_invoker) AS SELECT * FROM docs;
CREATE FUNCTION public.f() RETURNS SETOF docs LANGUAGE sql STABLE AS $$ SELECT * FROM v $$;
GRANT SELECT ON v TO app_user;

---- xact_id
:docs
CREATE POLICY p ON docs USING (:mine AND xmin IS NOT NULL);
RESET ROLE;

---- text_tenant_helper app.tenant
CREATE FUNCTION public.tenant() RETURNS text LANGUAGE sql STABLE AS $$ SELECT NULLIF(current_setting('app.tenant', true), '') $$;
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs(tenant_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (tenant_id = (SELECT tenant()));
RESET ROLE;

---- audit_own
:docs
CREATE POLICY p ON docs USING (:mine);
CREATE TABLE docs_audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id uuid NOT NULL, what text);
CREATE INDEX ON docs_audit(user_id);
ALTER TABLE docs_audit ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON docs_audit TO app_user;
CREATE POLICY p ON docs_audit USING (:mine);
RESET ROLE;

---- jwt_nested request.jwt.claims
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb -> 'app' ->> 'uid')::uuid));
RESET ROLE;

---- jwt_json_op request.jwt.claims
:docs
CREATE POLICY p ON docs USING (user_id::text = (SELECT NULLIF(current_setting('request.jwt.claims', true), '')::json #>> '{sub}'));
RESET ROLE;

---- raising_helper
CREATE FUNCTION public.me() RETURNS uuid LANGUAGE plpgsql STABLE AS $$ DECLARE v text := current_setting('app.current_user_id', true); BEGIN IF v IS NULL OR v = '' THEN RAISE EXCEPTION 'no user' USING ERRCODE = '28000'; END IF; RETURN v::uuid; END $$;
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT me()));
RESET ROLE;

---- to_jsonb
:docs
CREATE POLICY p ON docs USING (to_jsonb(docs) ->> 'user_id' = (SELECT NULLIF(:setting, '')));
RESET ROLE;

---- bytea
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_key bytea NOT NULL, title text NOT NULL);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (owner_key = decode(replace((SELECT NULLIF(:setting, '')), '-', ''), 'hex'));
RESET ROLE;

---- recursive_org
SET ROLE app_owner;
CREATE TABLE orgs (id int PRIMARY KEY, parent_id int);
CREATE TABLE org_members (org_id int NOT NULL, user_id uuid NOT NULL, PRIMARY KEY (org_id, user_id));
GRANT SELECT ON orgs TO app_user;
ALTER TABLE org_members ENABLE ROW LEVEL SECURITY; ALTER TABLE org_members FORCE ROW LEVEL SECURITY;
CREATE INDEX ON org_members (user_id);
GRANT SELECT ON org_members TO app_user;
CREATE POLICY own ON org_members FOR SELECT USING (:mine);
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), org_id int NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (org_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (org_id IN (WITH RECURSIVE mine AS (SELECT m.org_id FROM org_members m WHERE m.user_id = :me UNION SELECT o.id FROM orgs o JOIN mine ON o.parent_id = mine.org_id) SELECT mine.org_id FROM mine));
RESET ROLE;

---- values_exists
:docs
CREATE POLICY p ON docs USING (EXISTS (SELECT FROM (VALUES (:me)) AS v(u) WHERE v.u = docs.user_id));
RESET ROLE;

---- login_lookup app.login
SET ROLE app_owner;
CREATE TABLE users (id uuid PRIMARY KEY, login text UNIQUE NOT NULL);
ALTER TABLE users ENABLE ROW LEVEL SECURITY; ALTER TABLE users FORCE ROW LEVEL SECURITY;
GRANT SELECT ON users TO app_user;
CREATE POLICY own ON users USING (login = NULLIF(current_setting('app.login', true), ''));
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES users (id), title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id = (SELECT u.id FROM users u WHERE u.login = NULLIF(current_setting('app.login', true), '')));
RESET ROLE;

---- session_table app.session_id
SET ROLE app_owner;
CREATE TABLE sessions (id uuid PRIMARY KEY, user_id uuid NOT NULL, expires_at timestamptz NOT NULL);
CREATE FUNCTION session_user_id() RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER SET search_path TO public AS $$ SELECT s.user_id FROM sessions s WHERE s.id = NULLIF(current_setting('app.session_id', true), '')::uuid AND s.expires_at > now() $$;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (user_id = (SELECT session_user_id()));
RESET ROLE;

---- app_metadata request.jwt.claims
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid) OR (SELECT NULLIF(current_setting('request.jwt.claims', true), '')::jsonb -> 'app_metadata' ->> 'role') = 'admin');
RESET ROLE;

---- owner_via_parent_two
SET ROLE app_owner;
CREATE TABLE projects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, name text);
CREATE INDEX ON projects (user_id);
ALTER TABLE projects ENABLE ROW LEVEL SECURITY; ALTER TABLE projects FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON projects TO app_user;
CREATE POLICY p ON projects USING (:mine);
CREATE TABLE lists (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), project_id uuid NOT NULL REFERENCES projects (id), name text);
CREATE INDEX ON lists (project_id);
ALTER TABLE lists ENABLE ROW LEVEL SECURITY; ALTER TABLE lists FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON lists TO app_user;
CREATE POLICY p ON lists USING (project_id IN (SELECT p.id FROM projects p));
CREATE TABLE cards (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), list_id uuid NOT NULL REFERENCES lists (id), body text);
CREATE INDEX ON cards (list_id);
ALTER TABLE cards ENABLE ROW LEVEL SECURITY; ALTER TABLE cards FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON cards TO app_user;
CREATE POLICY p ON cards USING (EXISTS (SELECT FROM lists l JOIN projects p ON p.id = l.project_id WHERE l.id = cards.list_id AND p.user_id = :me));
RESET ROLE;

---- md5_owner
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_hash text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (owner_hash);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (owner_hash = md5((SELECT NULLIF(:setting, ''))));
RESET ROLE;

---- literal_public_owner app.login
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (owner);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (owner = NULLIF(current_setting('app.login', true), ''));
CREATE POLICY s ON docs FOR SELECT USING (owner = 'system');
RESET ROLE;

---- fallback_nobody app.login
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (owner);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (owner = COALESCE(NULLIF(current_setting('app.login', true), ''), 'nobody'));
RESET ROLE;

---- mail app.email
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_email text NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (owner_email);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (owner_email = NULLIF(current_setting('app.email', true), '') AND owner_email LIKE '%@%');
RESET ROLE;

---- app_metadata_tenant request.jwt.claims
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id int NOT NULL, title text NOT NULL);
CREATE INDEX ON docs (tenant_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (tenant_id = (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb -> 'app_metadata' ->> 'tenant_id')::int));
RESET ROLE;

---- jsonb_owner
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), meta jsonb NOT NULL, title text NOT NULL);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING ((meta -> 'owner' ->> 'id') = (SELECT NULLIF(:setting, '')));
RESET ROLE;

---- user_metadata_name request.jwt.claims
:docs
CREATE POLICY p ON docs USING (user_id = (SELECT (NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid) AND (SELECT NULLIF(current_setting('request.jwt.claims', true), '')::jsonb -> 'user_metadata' ->> 'terms') = 'accepted');
RESET ROLE;

---- interval
SET ROLE app_owner;
CREATE TABLE docs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, ttl interval NOT NULL, valid tstzrange NOT NULL, ip inet, title text NOT NULL);
CREATE INDEX ON docs (user_id);
ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO app_user;
CREATE POLICY p ON docs USING (:mine AND ttl > interval '0' AND valid @> now() AND (ip IS NULL OR ip << '10.0.0.0/8'::inet));
RESET ROLE;

---- supabase_storage request.jwt.claims
SET ROLE app_owner;
CREATE TABLE objects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL);
ALTER TABLE objects ENABLE ROW LEVEL SECURITY; ALTER TABLE objects FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON objects TO app_user;
CREATE POLICY p ON objects USING (split_part(name, '/', 1) = (SELECT NULLIF(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'));
RESET ROLE;
