#!/bin/sh
# What the image of PostgreSQL runs once, over a new volume, as its superuser: the roles and the database.
set -eu
password() { cat "/run/secrets/$1_password"; }
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" <<END
CREATE ROLE custody_owner LOGIN PASSWORD '$(password owner)';
CREATE ROLE custody_app NOLOGIN;
CREATE ROLE custody_rewrap NOLOGIN;
CREATE ROLE custody_audit NOLOGIN;
CREATE ROLE custody_verify NOLOGIN IN ROLE custody_audit;
CREATE ROLE custody_daemon LOGIN IN ROLE custody_app PASSWORD '$(password daemon)';
CREATE ROLE custody_rewrapper LOGIN IN ROLE custody_rewrap PASSWORD '$(password rewrap)';
CREATE ROLE custody_auditor LOGIN IN ROLE custody_verify PASSWORD '$(password audit)';
CREATE DATABASE custody OWNER custody_owner ENCODING 'UTF8' TEMPLATE template0;
END
