#!/bin/sh
# Tells Keepalived whether the pgvane on this host should hold the virtual IP address: exit code 0 when /readyz
# answers 200 within a second, else 1. The URL may be given as the first argument.

url=${1:-http://127.0.0.1:8009/readyz}

# The proxy is on this host, whatever the environment says about proxies of the web.
unset http_proxy HTTP_PROXY all_proxy ALL_PROXY

if command -v curl >/dev/null 2>&1; then
    status=$(curl -q --silent --max-time 1 --output /dev/null --write-out '%{http_code}' "$url")
    [ "$status" = 200 ] || exit 1
elif command -v wget >/dev/null 2>&1; then
    wget --quiet --tries=1 --timeout=1 --max-redirect=0 --output-document=/dev/null "$url" || exit 1
else
    echo "check-pgvane: neither curl nor wget is installed" >&2
    exit 1
fi
exit 0
