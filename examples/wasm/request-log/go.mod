module request-log

go 1.24
