-- Database, roles and schemas of Quancheng. Run by psql as a superuser; may be run again at any time.
-- Passwords come from the environment: QUANCHENG_OWNER_PASSWORD, QUANCHENG_API_PASSWORD,
-- QUANCHENG_VAULT_PASSWORD. quancheng_owner owns schemas and runs migrations; each service's role sees
-- its own schema alone and gets each right on each table from the migration that makes the table.
\set ON_ERROR_STOP on
\getenv owner_password QUANCHENG_OWNER_PASSWORD
\getenv api_password QUANCHENG_API_PASSWORD
\getenv vault_password QUANCHENG_VAULT_PASSWORD

SELECT 'CREATE DATABASE quancheng ENCODING ''UTF8'' TEMPLATE template0'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'quancheng') \gexec
\connect quancheng

BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL log_min_error_statement = panic; -- a failing statement below would put a password in the log

SELECT format('CREATE ROLE %I', wanted)
FROM unnest(ARRAY ['quancheng_owner', 'quancheng_api', 'quancheng_vault']) AS wanted
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) \gexec
ALTER ROLE quancheng_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'owner_password';
ALTER ROLE quancheng_api LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'api_password';
ALTER ROLE quancheng_vault LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'vault_password';

-- A migration names its schema: with this path a table that names none is an error, not a stray.
ALTER ROLE quancheng_owner SET search_path = pg_catalog;
ALTER ROLE quancheng_api SET search_path = api;
ALTER ROLE quancheng_vault SET search_path = vault;

ALTER DATABASE quancheng OWNER TO quancheng_owner;
REVOKE ALL ON DATABASE quancheng FROM PUBLIC;
GRANT CONNECT ON DATABASE quancheng TO quancheng_api, quancheng_vault;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA IF NOT EXISTS api AUTHORIZATION quancheng_owner;
CREATE SCHEMA IF NOT EXISTS vault AUTHORIZATION quancheng_owner;
REVOKE ALL ON SCHEMA api, vault FROM PUBLIC;
GRANT USAGE ON SCHEMA api TO quancheng_api;
GRANT USAGE ON SCHEMA vault TO quancheng_vault;
ALTER DEFAULT PRIVILEGES FOR ROLE quancheng_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
COMMIT;
