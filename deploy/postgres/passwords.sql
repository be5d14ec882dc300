-- For psql: the roles' passwords, from its environment.
\set ON_ERROR_STOP on
\getenv owner POSTGRES_OWNER_PASSWORD
\getenv gateway POSTGRES_GATEWAY_PASSWORD
\getenv persister POSTGRES_PERSISTER_PASSWORD
\getenv monitor POSTGRES_MONITOR_PASSWORD
ALTER ROLE partyline_owner PASSWORD :'owner';
ALTER ROLE partyline_gateway PASSWORD :'gateway';
ALTER ROLE partyline_persister PASSWORD :'persister';
ALTER ROLE partyline_monitor PASSWORD :'monitor';
