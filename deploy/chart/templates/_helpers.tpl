{{- define "mintmark.trustDomain" -}}
{{ required "trustDomain is not set: the name under which identities are issued, such as --set trustDomain=example.org" .Values.trustDomain }}
{{- end }}

{{- define "mintmark.labels" -}}
{{ include "mintmark.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "mintmark.selector" -}}
app.kubernetes.io/name: mintmark-{{ .part }}
app.kubernetes.io/part-of: mintmark
{{- end }}

{{- define "mintmark.image" -}}
{{ printf "%s/mintmark-%s:%s" .root.Values.image.registry .part (.tag | default .root.Values.image.tag | default .root.Chart.AppVersion) | quote }}
{{- end }}

{{- define "mintmark.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* The drivers' names, as JSON. */ -}}
{{- define "mintmark.drivers" -}}
{{ .Values.spire.csiDriver | ternary (list "csi.mintmark.dev" "csi.spiffe.io") (list "csi.mintmark.dev") | toJson }}
{{- end }}

{{- /* Where attestors find the server. */ -}}
{{- define "mintmark.server" -}}
{{- if .Values.attestor.server -}}
{{ .Values.attestor.server }}
{{- else if not .Values.server.enabled -}}
{{ fail "attestor.server is not set: with server.enabled=false, attestors need the host:port of the server elsewhere" }}
{{- else -}}
{{ .Values.server.service.clusterIP | default (printf "mintmark-server.%s.svc" .Release.Namespace) }}:8081
{{- end }}
{{- end }}
