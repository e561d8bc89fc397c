#!/bin/sh
# Tells Keepalived of the pgvane on this host: `check-pgvane.sh livez` whether it runs and answers, `check-pgvane.sh
# readyz` whether clients should be sent to it. Exit code 0: yes. The admin side's address may be the second argument.
#
# A good answer is held back by the proxy for 0.7 s, and a bad one is not: so a proxy that dies, drains or loses every
# primary is told of at once, although Keepalived asks once a second.

what=${1:-readyz}
url=${2:-http://127.0.0.1:8009}

# The proxy is on this host, whatever the environment says about proxies of the web.
unset http_proxy HTTP_PROXY all_proxy ALL_PROXY

# ask PATH SECONDS: whether it answers 200 within that time.
if command -v curl >/dev/null 2>&1; then
    ask() {
        status=$(curl -q --silent --max-time "$2" --output /dev/null --write-out '%{http_code}' "$url/$1")
        [ "$status" = 200 ]
    }
elif command -v wget >/dev/null 2>&1; then
    ask() { wget --quiet --tries=1 --timeout="$2" --max-redirect=0 --output-document=/dev/null "$url/$1"; }
else
    echo "check-pgvane: neither curl nor wget is installed" >&2
    exit 1
fi

# Asked again, without delay: a proxy that hands over to its next version ends its answer, and the next one has another;
# one slow answer of a busy host moves nothing.
ask "$what?wait=700ms" 1.8 || ask "$what" 1
