"""A KEK in an HSM, by PKCS#11. The module that speaks to the HSM runs in a process of its own."""
