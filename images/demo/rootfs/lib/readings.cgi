#!/bin/sh
# Hands out the file $1 to those who know the key.

answer() {
    printf 'Status: %s\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n\r\n' "$1"
}

if [ "$HTTP_X_API_KEY" != "$API_KEY" ]; then
    answer '403 Forbidden'
    echo '{"error": "the header X-Api-Key is missing or wrong"}'
    exit
fi
answer '200 OK'
cat "$1"
