"""`make fleet`: one nats-server, thousands of hosts, some of them real couriers. In tests/, as every proof: linters read it."""
