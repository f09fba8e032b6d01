"""HölderPO as a verl recipe: everything that touches verl lives here; the method itself is in `holderpo_core`."""
