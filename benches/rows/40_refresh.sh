needs=empty

run() {
    measure /s refresh="refresh app empty 8 -T2" refresh_update="refresh_update postgres empty 8 -T2"
    row 'refresh_session(), 8 clients' refresh 'one HOT update by primary key' refresh_update 'ratio >= 0.70'
}
