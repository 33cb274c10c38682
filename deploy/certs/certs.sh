#!/bin/sh
# Makes a CA and a server certificate with openssl, as `septum server init` makes them by itself.
#
#   sh certs.sh ca FOLDER NAME             once: FOLDER/ca.key, FOLDER/ca.crt (10 years)
#   sh certs.sh server FOLDER HOST [DAYS]  each time: FOLDER/server.key, FOLDER/server.crt (90 days)
#
# For those who keep the CA's key on another machine than the coordinator's.
# HOST is the name or the IP address at which hospitals reach the coordinator.
set -eu
umask 077

fail() {
  echo "error: $1" >&2
  exit 2
}

[ $# -ge 3 ] || fail "say: sh certs.sh ca FOLDER NAME, or sh certs.sh server FOLDER HOST [DAYS]"
what=$1
folder=$2
name=$3
days=${4:-90}
command -v openssl >/dev/null || fail "openssl is needed; install it."

case $what in
  ca)
    [ ! -e "$folder/ca.key" ] || fail "$folder/ca.key exists; a new CA locks out every hospital."
    mkdir -p "$folder"
    openssl ecparam -name prime256v1 -genkey -noout -out "$folder/ca.key"
    openssl req -x509 -new -sha256 -days 3650 -key "$folder/ca.key" -subj "/CN=$name" \
      -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
      -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$folder/ca.crt"
    ;;
  server)
    [ -e "$folder/ca.key" ] || fail "$folder/ca.key is missing; make it with: sh certs.sh ca"
    case $name in
      *:*) names="IP:$name" ;;
      *[!0-9.]*) names="DNS:$name" ;;
      *) names="IP:$name" ;;
    esac
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT
    # The loopback names, because the coordinator's processes reach each other by them.
    cat >"$work/extensions" <<EOF
subjectAltName=$names,DNS:localhost,IP:127.0.0.1
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
authorityKeyIdentifier=keyid
EOF
    openssl ecparam -name prime256v1 -genkey -noout -out "$work/server.key"
    openssl req -new -key "$work/server.key" -subj "/CN=$name" -out "$work/server.csr"
    openssl x509 -req -in "$work/server.csr" -sha256 -days "$days" -CA "$folder/ca.crt" \
      -CAkey "$folder/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
      -extfile "$work/extensions" -out "$work/server.crt" 2>/dev/null
    openssl verify -CAfile "$folder/ca.crt" "$work/server.crt" >/dev/null
    mv "$work/server.key" "$folder/server.key"
    mv "$work/server.crt" "$folder/server.crt"
    ;;
  *)
    fail "$what is neither ca nor server."
    ;;
esac
openssl x509 -in "$folder/$what.crt" -noout -subject -enddate
