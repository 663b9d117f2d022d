"""One machine: `pmd up` starts, watches and ends the programs; absent on a cluster."""
