{{- define "labels" -}}
app.kubernetes.io/name: home-monitoring
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: home-lab
{{- end }}
