module github.com/garyburd/redigo

go 1.26
