"""`splitft watch`: a live page of runs, read from their folders."""
