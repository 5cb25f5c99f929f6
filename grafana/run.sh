#!/bin/sh
# Prometheus for the gateway on port 8080, and Grafana where it is installed, until Ctrl-C. Data go to .cache/.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
data=$folder/../.cache
command -v prometheus >/dev/null || {
	echo "Prometheus is not installed: 'brew install prometheus grafana' or 'apt install prometheus'." >&2
	exit 1
}
mkdir -p "$data/prometheus" "$data/grafana"
trap 'kill 0' INT TERM EXIT
prometheus --config.file="$folder/prometheus.yml" --storage.tsdb.path="$data/prometheus" \
	--web.listen-address=127.0.0.1:9090 &
echo "Prometheus: http://127.0.0.1:9090"
if command -v grafana >/dev/null; then
	home=$(for place in /usr/share/grafana "$(brew --prefix 2>/dev/null || true)/share/grafana"; do
		[ -d "$place/conf" ] && echo "$place" && break
	done)
	export PROMETHEUS_URL=http://127.0.0.1:9090 DASHBOARDS_FOLDER="$folder/json"
	export GF_PATHS_PROVISIONING="$folder/provisioning" GF_PATHS_DATA="$data/grafana" GF_SERVER_HTTP_ADDR=127.0.0.1
	export GF_ANALYTICS_REPORTING_ENABLED=false GF_ANALYTICS_CHECK_FOR_UPDATES=false
	grafana server --homepath "$home" &
	echo "Grafana: http://127.0.0.1:3000"
else
	echo "Grafana is not installed ('brew install grafana'; Debian has no package: grafana.com/docs says how)."
	echo "Import grafana/json/*.json into any Grafana 11 whose Prometheus data source is the address above."
fi
wait
