-- The database that answers, for people.
SELECT format('the database %s%s', current_database(),
              coalesce(' at ' || host(inet_server_addr()) || ':' || inet_server_port(), ' on a local socket'))
