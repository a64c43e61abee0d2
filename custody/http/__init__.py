"""The HTTP side: routes, bodies, problems, CORS, the admin listener."""
