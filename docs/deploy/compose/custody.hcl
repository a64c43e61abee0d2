path "transit/encrypt/custody" { capabilities = ["update"] }
path "transit/decrypt/custody" { capabilities = ["update"] }
path "transit/rewrap/custody"  { capabilities = ["update"] }
path "transit/keys/custody"    { capabilities = ["read"] }
