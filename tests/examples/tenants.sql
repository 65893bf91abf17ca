-- A shop that many companies use: rows belong to a company and to one of its users.
-- Companies have bigint ids, users the text ids of a login service, and a user may work for several.

CREATE ROLE shop_user LOGIN PASSWORD 'secret';

CREATE TABLE tenants (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL);
CREATE TABLE memberships (
    tenant_id bigint NOT NULL REFERENCES tenants,
    user_id text NOT NULL REFERENCES users,
    PRIMARY KEY (tenant_id, user_id)
);
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL,
    user_id text NOT NULL,
    item text NOT NULL,
    FOREIGN KEY (tenant_id, user_id) REFERENCES memberships
);
CREATE INDEX ON orders (tenant_id, user_id);
-- A product without a tenant is everybody's to read, and nobody's to change.
CREATE TABLE products (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint REFERENCES tenants,
    name text NOT NULL
);
CREATE INDEX ON products (tenant_id);
-- What the tests write at random: each row remembers who wrote it.
CREATE TABLE notes (tenant_id bigint NOT NULL, user_id text NOT NULL, writer text NOT NULL);
CREATE INDEX ON notes (tenant_id, user_id);

ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON tenants FOR ALL
    USING (id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint))
    WITH CHECK (id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint));

ALTER TABLE memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE memberships FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON memberships FOR ALL
    USING (tenant_id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint));

ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
CREATE POLICY own_user ON users FOR ALL
    USING (id = (SELECT NULLIF(current_setting('shop.user_id', true), '')))
    WITH CHECK (id = (SELECT NULLIF(current_setting('shop.user_id', true), '')));

ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY own_orders ON orders FOR ALL
    USING (tenant_id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint)
        AND user_id = (SELECT NULLIF(current_setting('shop.user_id', true), '')))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint)
        AND user_id = (SELECT NULLIF(current_setting('shop.user_id', true), '')));

ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY own_notes ON notes FOR ALL
    USING (tenant_id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint)
        AND user_id = (SELECT NULLIF(current_setting('shop.user_id', true), '')))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint)
        AND user_id = (SELECT NULLIF(current_setting('shop.user_id', true), '')));

ALTER TABLE products ENABLE ROW LEVEL SECURITY;
ALTER TABLE products FORCE ROW LEVEL SECURITY;
CREATE POLICY shared_or_own ON products FOR SELECT
    USING (tenant_id IS NULL
        OR tenant_id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint));
CREATE POLICY own_tenant ON products FOR ALL
    USING (tenant_id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('shop.tenant_id', true), '')::bigint));

GRANT SELECT ON tenants, users, memberships TO shop_user;
GRANT SELECT, INSERT, UPDATE, DELETE ON orders, products, notes TO shop_user;

INSERT INTO tenants VALUES (1, 'Ada''s Books'), (2, 'Bob''s Bikes');
INSERT INTO users VALUES ('auth0|ada', 'Ada'), ('auth0|bob', 'Bob');
INSERT INTO memberships
    VALUES (1, 'auth0|ada'), (1, 'auth0|bob'), (2, 'auth0|ada'), (2, 'auth0|bob');
INSERT INTO products (tenant_id, name) VALUES (NULL, 'Voucher'), (1, 'Novel'), (2, 'Racer');
