#!/bin/sh
# Asks the sensor for its last reading and shows it. Runs once for each request; the page asks again by itself.

# ---------------------------------------------------------------- ask

key=$API_KEY
[ -z "$API_KEY_FILE" ] || read -r key < "$API_KEY_FILE"

address=${SENSOR_URL#http://}
path=/${address#*/}
[ "$path" != "/$address" ] || path=/
address=${address%%/*}
host=${address%:*}
port=${address##*:}
[ "$port" != "$address" ] || port=80

# nc rather than wget, so that the key never shows among a process's arguments. What may be HTML becomes harmless text.
reply=$(
    printf 'GET %s HTTP/1.0\r\nHost: %s\r\nX-Api-Key: %s\r\n\r\n' "$path" "$host" "$key" |
        timeout 3 nc "$host" "$port" 2>&1 | tr -d '\r' | sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g; s/\\\(["\\]\)/\1/g'
)
status=${reply%%
*}

# ---------------------------------------------------------------- understand

# The sensor writes one key to a line: `  "load": [0.10, 0.20, 0.15],`
sensor= location= time= uptime= temperature=null undervoltage= cores= load= total=0 available=0 alerts=
while IFS= read -r line; do
    value=${line#*: }
    value=${value%,}
    text=${value#\"}
    text=${text%\"}
    case $line in
        '  "sensor":'*) sensor=$text ;;
        '  "location":'*) location=$text ;;
        '  "time":'*) time=$text ;;
        '  "uptime_seconds":'*) uptime=$value ;;
        '  "temperature_celsius":'*) temperature=$value ;;
        '  "undervoltage":'*) undervoltage=$value ;;
        '  "cores":'*) cores=$value ;;
        '  "load":'*) load=${value#\[} load=${load%%,*} ;;
        '  "memory_total_bytes":'*) total=$value ;;
        '  "memory_available_bytes":'*) available=$value ;;
        '  "alerts":'*) alerts=${value#\[} alerts=${alerts%\]} ;;
    esac
done << REPLY
$reply
REPLY

case $status in
    *' 200 '*) problem= ;;
    *' 403 '*) problem="The sensor refuses the key. Is it the one in the Secret?" ;;
    HTTP/*) problem="The sensor answers: $status" ;;
    *) problem="No answer from $SENSOR_URL" ;;
esac

# ---------------------------------------------------------------- show

card() { # title, value, unit, percent of a bar or nothing
    printf '<section><h2>%s</h2><p><b>%s</b> %s</p>' "$1" "$2" "$3"
    [ -z "$4" ] || printf '<div class="bar"><i style="width:%s%%"></i></div>' "$4"
    echo '</section>'
}

cards() {
    if [ "$temperature" = null ]; then
        card Temperature '&ndash;' 'this machine has no sensor'
    else
        card Temperature "$temperature" '&deg;C' "${temperature%.*}"
    fi
    used=$((total - available))
    card 'Memory in use' $((used >> 20)) "of $((total >> 20)) MiB" $((total ? used * 100 / total : 0))
    card Load "$load" "on $cores cores"
    card 'Up for' "$((uptime / 86400)) d $((uptime % 86400 / 3600)) h $((uptime % 3600 / 60)) min" ''
    [ "$undervoltage" != true ] || card Power 'too weak' 'the board is under-voltage'
}

printf 'Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n'
printf "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\r\n"
cat << HTML
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<title>${location:-Sensor}</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --accent: #c51a4a }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
  h1 { font-weight: 600; margin: 0 }
  h2 { font-size: .85rem; font-weight: 500; opacity: .7; margin: 0 }
  main { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; margin: 1.5rem 0 }
  section { border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1rem }
  section p { margin: .2rem 0 0 }
  b { font-size: 1.7rem; font-weight: 600 }
  .bar { height: .4rem; border-radius: .2rem; background: var(--line); overflow: hidden }
  .bar i { display: block; height: 100%; background: var(--accent) }
  .alert { border-left: .3rem solid var(--accent); padding: .5rem .8rem; background: #c51a4a22 }
  footer { font-size: .85rem; opacity: .7 }
</style>
</head>
<body>
<h1>${location:-Sensor}</h1>
HTML
[ -z "$problem" ] || echo "<p class=\"alert\">$problem</p>"
[ -z "$alerts" ] || echo "<p class=\"alert\">Alert: $(printf %s "$alerts" | tr -d '"')</p>"
if [ -z "$problem" ]; then
    echo '<main>'
    cards
    echo '</main>'
    echo "<footer>Read at $time by $sensor, shown by ${HOSTNAME:-$(cat /proc/sys/kernel/hostname)}.</footer>"
fi
echo '</body></html>'
