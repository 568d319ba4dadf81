#!/usr/bin/env bash
# Records what the real ipvsadm prints, for the tests in ../sessions.rs.
#
#   record.sh SESSION.txt RUN...
#
# Every line of SESSION.txt that starts with "$ " is a command; "$ ipvsadm -R <<END" takes the lines up to
# "END" as its input. The file is rewritten with what each command printed (standard output and error
# together) and "[exit N]" where the status is not 0. RUN is a command prefix that reaches a kernel with
# IPVS in it, e.g. `ssh lvs1` or `ip netns exec lvs`. Recorded with ipvsadm 1.31 on Linux 6.1.
set -euo pipefail
file=$1; shift
out=$(mktemp)
trap 'rm -f "$out"' EXIT
while IFS= read -r line <&3; do
  case $line in
    '#'*) printf '%s\n' "$line" >> "$out"; continue ;;
    '$ '*) ;;
    *) continue ;;
  esac
  printf '%s\n' "$line" >> "$out"
  command=${line#'$ '}
  if [[ $command == *'<<END' ]]; then
    while IFS= read -r input <&3; do
      printf '%s\n' "$input" >> "$out"
      command+=$'\n'$input
      [ "$input" = END ] && break
    done
  fi
  status=0
  "$@" sh -c "$command" >> "$out" < /dev/null || status=$?
  [ "$status" = 0 ] || printf '[exit %d]\n' "$status" >> "$out"
done 3< "$file"
cat "$out" > "$file"
