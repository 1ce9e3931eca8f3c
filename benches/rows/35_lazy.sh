# Sign-in of guests that are not stored, with the default algorithm and with the cheapest.
needs='lazy lazy_hs256'

run() {
    measure /s lazy="sign_in app lazy 8 -T2" lazy_hs256="sign_in app lazy_hs256 8 -T2" random_uuid="random_uuid app lazy 8 -T2"
    row 'sign_in_anonymously(), lazy, ES256, 8 clients' lazy 'select gen_random_uuid()' random_uuid 'ratio >= 0.3'
    row 'the same, HS256' lazy_hs256 'select gen_random_uuid()' random_uuid 'ratio >= 0.5'
}
