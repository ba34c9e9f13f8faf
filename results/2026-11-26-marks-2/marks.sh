#!/bin/bash
# two rounds of the marks, before and after in turn; each line of runs.jsonl is a bench report with a name
O=target/marks; mkdir -p $O; : > $O/runs.jsonl; : > $O/err
one() { # side binary name flags
  $2 bench --data target --duration 3 --warmup 1 --floor --json $4 2>>$O/err | python3 -c "import json,sys; r=json.load(sys.stdin); r['name']='$3'; r['side']='$1'; r['round']=$R; print(json.dumps(r))" >> $O/runs.jsonl
}
for R in 1 2; do
 while IFS='|' read -r n b f; do
  [ $b = b ] && one before BEFORE/loggos "$n" "$f"
  one after target/release/loggos "$n" "$f"
 done <<L
lone|b|--connections 1 --inflight 1
d16|b|--inflight 4
d64|b|--inflight 16
d256|b|
d256-fresh|n|--preallocate-bytes 0
d4096|b|--inflight 1024
records|b|--inflight 1 --records-per-append 250
b16384|b|--record-bytes 16384
b65536|b|--record-bytes 65536 --inflight 16
b65536-ahead|n|--record-bytes 65536 --inflight 16 --preallocate-bytes 5000000000
n5|b|--local 5
n1-d16|b|--local 1 --inflight 4
n1-d256|b|--local 1
L
done
