# OpenBao on one host: its store is a volume, and it unseals itself with a key that is a file.
ui           = false
api_addr     = "http://openbao:8200"
cluster_addr = "http://openbao:8201"

storage "raft" {
  path    = "/openbao/file"
  node_id = "one"
}

# In clear on a network of this host alone.
listener "tcp" {
  address     = "0.0.0.0:8200"
  tls_disable = true
}

seal "static" {
  current_key_id = "1"
  current_key    = "file:///run/secrets/bao_seal"
}
