// SPDX-License-Identifier: Apache-2.0
#include "dcmtk/config/osconfig.h"

#include "dcmtk/dcmnet/assoc.h"
#include "dcmtk/dcmnet/cond.h"
#include "dcmtk/dcmtls/tlslayer.h"
#include "dcmtk/dcmtls/tlstrans.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <new>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>

extern "C" {
#include "dicom_map/dcmtk/tls.h"
}

namespace
{

using clock_type = std::chrono::steady_clock;

// What connection and caller share; lives as long as the layer.
struct State {
    dcm_tls_options options;
    X509 *peer = nullptr;
    char trouble[512] = "";
};

clock_type::time_point limit_of(double seconds)
{
    return clock_type::now() +
           std::chrono::duration_cast<clock_type::duration>(std::chrono::duration<double>(seconds));
}

bool wait_for(int fd, short events, clock_type::time_point limit)
{
    for (;;) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(limit - clock_type::now()).count();
        if (left <= 0)
            return false;
        pollfd poll_fd = {fd, events, 0};
        const int n = poll(&poll_fd, 1, static_cast<int>(std::min<long long>(left, 3600000)));
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return false;
    }
}

class Connection : public DcmTLSConnection
{
  public:
    Connection(int fd, SSL *ssl, State &state) : DcmTLSConnection(fd, ssl), ssl_(ssl), state_(state)
    {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    }
    Connection(const Connection &) = delete;
    Connection &operator=(const Connection &) = delete;

    OFCondition serverSideHandshake() override
    {
        return handshake(SSL_accept);
    }
    OFCondition clientSideHandshake() override
    {
        const char *host = state_.options.host;
        in6_addr address;
        if (inet_pton(AF_INET, host, &address) != 1 && inet_pton(AF_INET6, host, &address) != 1)
            SSL_set_tlsext_host_name(ssl_, host);
        OFCondition condition = handshake(SSL_connect);
        if (condition.bad())
            return condition;
        const char *sha256 = state_.options.certificate_sha256, *name = state_.options.certificate_name;
        if (sha256[0] == '\0' && name[0] == '\0')
            name = host;
        if (credentials_peer_is(state_.peer, sha256, name))
            return condition;
        char text[400];
        credentials_describe(state_.peer, text, sizeof text);
        return fail("its certificate is not the expected one but ", text);
    }
    void close() override
    {
        ssl_ = nullptr; // freed by the base class
        DcmTLSConnection::close();
    }
    // -1 with errno EIO after a failure: DCMTK tries again on EINTR.
    ssize_t read(void *data, size_t size) override
    {
        return transfer(
            [&] { return SSL_read(ssl_, data, static_cast<int>(std::min<size_t>(size, 1 << 30))); });
    }
    ssize_t write(void *data, size_t size) override
    {
        return transfer(
            [&] { return SSL_write(ssl_, data, static_cast<int>(std::min<size_t>(size, 1 << 30))); });
    }

  private:
    OFCondition fail(const char *text, const char *more = "")
    {
        snprintf(state_.trouble, sizeof state_.trouble, "%s%s", text, more);
        ERR_clear_error();
        return makeDcmnetCondition(DULC_TCPINITERROR, OF_error, state_.trouble);
    }

    OFCondition handshake(int (*step)(SSL *))
    {
        const auto limit = limit_of(state_.options.handshake_timeout_s);
        for (;;) {
            ERR_clear_error();
            errno = 0;
            const int rc = step(ssl_);
            if (rc == 1)
                break;
            const int error = SSL_get_error(ssl_, rc);
            if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
                return fail("the TLS handshake failed: ", reason(error));
            if (!wait_for(getSocket(), error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, limit)) {
                char text[64];
                snprintf(text, sizeof text, "%g s", state_.options.handshake_timeout_s);
                return fail("the TLS handshake was not complete after ", text);
            }
        }
        state_.peer = SSL_get1_peer_certificate(ssl_);
        if (state_.peer == nullptr)
            return fail("the peer showed no certificate");
        return EC_Normal;
    }

    template <typename Call> ssize_t transfer(Call call)
    {
        const auto limit = limit_of(state_.options.io_timeout_s);
        while (ssl_ != nullptr) {
            ERR_clear_error();
            errno = 0;
            const int n = call();
            if (n > 0)
                return n;
            const int error = SSL_get_error(ssl_, n);
            if (error == SSL_ERROR_ZERO_RETURN)
                return 0;
            if ((error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) ||
                !wait_for(getSocket(), error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, limit)) {
                snprintf(state_.trouble, sizeof state_.trouble, "the TLS connection broke: %s",
                         reason(error));
                ERR_clear_error();
                break;
            }
        }
        errno = EIO;
        return -1;
    }

    const char *reason(int error) const
    {
        const long verdict = SSL_get_verify_result(ssl_);
        const unsigned long code = ERR_peek_error();
        if (verdict != X509_V_OK)
            return X509_verify_cert_error_string(verdict);
        if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
            return "the peer said nothing for too long";
        if (code != 0 && ERR_reason_error_string(code) != nullptr)
            return ERR_reason_error_string(code);
        return errno != 0 ? strerror(errno) : "the peer closed the connection";
    }

    SSL *ssl_; // owned by the base class
    State &state_;
};

class Layer : public DcmTLSTransportLayer
{
  public:
    Layer(T_ASC_NetworkRole role, State &state) : DcmTLSTransportLayer(role, nullptr, OFFalse), state_(state)
    {
    }
    DcmTransportConnection *createConnection(DcmNativeSocketType fd, OFBool use_secure_layer) override
    {
        if (!use_secure_layer)
            return nullptr; // never in the clear by mistake
        SSL *ssl = SSL_new(getNativeHandle());
        if (ssl == nullptr || SSL_set_fd(ssl, fd) != 1) {
            SSL_free(ssl);
            return nullptr;
        }
        return new Connection(fd, ssl, state_);
    }

  private:
    State &state_;
};

} // namespace

struct dcm_tls {
    State state;
    Layer layer;
    explicit dcm_tls(const dcm_tls_options &options)
        : state{options}, layer(options.is_acceptor ? NET_ACCEPTOR : NET_REQUESTOR, state)
    {
    }
    ~dcm_tls()
    {
        X509_free(state.peer);
    }
    dcm_tls(const dcm_tls &) = delete;
    dcm_tls &operator=(const dcm_tls &) = delete;
};

extern "C" int dcm_tls_open(const struct dcm_tls_options *options, struct dcm_tls **tls,
                            struct fault_note *why)
{
    try {
        dcm_tls *opened = new dcm_tls(*options);
        OFCondition condition = opened->layer.setTLSProfile(TSP_Profile_BCP195_ND);
        if (condition.good())
            condition = opened->layer.activateCipherSuites();
        int rc = 0;
        if (condition.bad())
            rc = fault_set(why, FAULT_TLS, "cannot start TLS: %s", condition.text());
        else // last: its security level and versions replace DCMTK's
            rc = credentials_use(options->credentials, opened->layer.getNativeHandle(), options->is_acceptor,
                                 why);
        if (rc != 0) {
            delete opened;
            return rc;
        }
        *tls = opened;
        return 0;
    } catch (...) {
        return fault_set(why, FAULT_NO_MEMORY, "memory exhausted while TLS was started");
    }
}

extern "C" void dcm_tls_close(struct dcm_tls *tls)
{
    delete tls;
}

extern "C" void *dcm_tls_layer(struct dcm_tls *tls)
{
    return static_cast<DcmTransportLayer *>(&tls->layer);
}

extern "C" const struct x509_st *dcm_tls_peer(const struct dcm_tls *tls)
{
    return tls->state.peer;
}

extern "C" const char *dcm_tls_trouble(const struct dcm_tls *tls)
{
    return tls->state.trouble;
}
