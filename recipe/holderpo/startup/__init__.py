"""How the processes of a run on one machine start: forked from one that has imported the libraries."""
